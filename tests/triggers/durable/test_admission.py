"""Starts, forks and signals through the door, on the real loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from triggers.settings import AliasSettings

OLGA, VIC, ALERTMANAGER, N8N, PUSH = (
    "Person::olga", "Person::vic", "Service::alertmanager", "Service::n8n", "CI::push",
)  # fmt: skip
STEPS = ("scrape", "validate", "version", "tune", "train", "evaluate")


def test_one_key_is_one_run_also_when_it_comes_at_once_and_after_the_run_has_ended(durable: Any) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(durable.start())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    durable.walk(found[0], *STEPS, then="succeeded")
    found.append(durable.start())

    assert len(found) == 7
    assert set(found) == {run.run_id for run in durable.loop.engine.list()}
    assert set(durable.launched) == set(found)


def test_a_run_carries_who_asked_and_why(durable: Any) -> None:
    run_id = durable.start()
    body = {"recipe": "nano", "reason": "new pages"}
    durable.send(OLGA, "POST", f"/v1/runs/{run_id}/cancel", {})
    second = durable.send(OLGA, "POST", "/v1/runs", body).json()["run_id"]

    cause = durable.loop.engine.view(second).cause
    assert (cause["source"], cause["evidence"]) == ("manual", {"by": OLGA, "reason": "new pages"})


def test_a_key_that_was_used_for_another_request_is_refused(durable: Any) -> None:
    durable.start()
    answer = durable.send(OLGA, "POST", "/v1/runs", {"recipe": "tiny"}, **{"idempotency-key": "k"})
    assert answer.status_code == 422
    assert "used before" in answer.json()["detail"]
    assert len(durable.loop.engine.list()) == 1


def test_a_second_request_is_merged_at_first_and_refused_once_the_run_trains(durable: Any) -> None:
    first = durable.start()
    merged = durable.send(OLGA, "POST", "/v1/runs", {"recipe": "nano"}).json()
    assert merged == {"run_id": first, "outcome": "merged"}

    from steps.common.signals import advanced, open_signal_log

    advanced(open_signal_log(durable.loop.engine.store, "nano"), first, "training")
    answer = durable.send(OLGA, "POST", "/v1/runs", {"recipe": "nano"})
    assert answer.status_code == 409
    assert first in answer.json()["detail"]
    assert len(durable.loop.engine.list()) == 1


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.num_steps": "many"}, {"nosuch.key": 1}, {"train": {}}, {"train.num_steps": {"a": {"b": []}}},
        {"train.num_steps=1,a.b": 2}, {"..": 1}, {"deploy.alias": "../x"}, {"recipe.x": 1}, {"a." * 50 + "b": 1},
        {"deploy.weights": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]},
    ],
)  # fmt: skip
def test_an_override_that_breaks_a_rule_starts_nothing(overrides: dict[str, Any], durable: Any) -> None:
    answer = durable.send(OLGA, "POST", "/v1/runs", {"recipe": "nano", "overrides": overrides})
    assert answer.status_code == 422, answer.text
    assert durable.loop.engine.list() == []
    assert durable.signals().num_signals == {}


def test_a_fork_shares_what_was_finished_and_is_one_run_a_key(durable: Any) -> None:
    parent = durable.start()
    durable.walk(parent, "scrape", "validate", "version", "tune")
    durable.send(OLGA, "POST", f"/v1/runs/{parent}/cancel", {})
    body = {"from_step": "train", "overrides": {"train.num_steps": 30}}
    forks = {
        durable.send(OLGA, "POST", f"/v1/runs/{parent}/fork", body, **{"idempotency-key": "f"}).json()["run_id"]
        for _ in range(3)
    }

    assert len(forks) == 1
    view = durable.loop.engine.view(forks.pop())
    assert view.parent == parent
    assert [step.name for step in view.steps if step.origin == parent] == ["scrape", "validate", "version"]
    assert durable.loop.engine.config(view.run_id).train.num_steps == 30
    assert durable.send(OLGA, "POST", f"/v1/runs/{parent}/fork", {"from_step": "bake"}).status_code in (404, 422)


def alert(**changes: Any) -> dict[str, Any]:
    labels = {"alertname": "EverloopDrift", "alias": "nano", "signal": "drift"}
    return {
        "status": "firing", "labels": labels, "startsAt": "2026-11-24T04:15:30Z", "fingerprint": "0d7e3a6f", **changes,
    }  # fmt: skip


def deliver(durable: Any, *alerts: dict[str, Any]) -> Any:
    return durable.send(ALERTMANAGER, "POST", "/v1/hooks/alertmanager", {"version": "4", "alerts": list(alerts)})


def test_fifty_deliveries_of_one_alert_are_one_signal_and_one_run(durable: Any) -> None:
    answers = [deliver(durable, alert()).json()["signals"][0] for _ in range(50)]

    assert [answer["outcome"] for answer in answers] == ["started"] + ["merged"] * 49
    assert len({answer["run_id"] for answer in answers}) == 1
    assert dict(durable.signals().num_signals) == {"drift": 1}
    assert durable.launched == [answers[0]["run_id"]]


def test_an_alert_in_the_cooldown_is_collected_once_and_waits(durable: Any) -> None:
    run_id = durable.start()
    durable.walk(run_id, "scrape", then="failed")
    from steps.common.signals import finished, open_signal_log
    from workflows.configs import RECIPES

    log = open_signal_log(durable.loop.engine.store, "nano")
    store_now = durable.loop.engine.store.now()
    finished(log, run_id, "failed", RECIPES["nano"]().signals, now=store_now, champion=None)

    outcomes = [deliver(durable, alert()).json()["signals"][0]["outcome"] for _ in range(10)]

    assert outcomes == ["collected"] * 10
    assert durable.signals().num_suppressed == {"cooldown": 1}
    assert len(durable.signals().pending) == 1
    assert durable.signals().active is None


def test_the_first_signal_starts_the_recipe_with_the_fields_that_the_settings_change(open_durable: Any) -> None:
    durable = open_durable(alias=AliasSettings(recipe="nano", overrides=("train.num_steps=7", "deploy.alias=other")))
    run_id = deliver(durable, alert()).json()["signals"][0]["run_id"]

    config = durable.loop.engine.config(run_id)
    assert (config.recipe, config.train.num_steps, config.deploy.alias) == ("nano", 7, "nano")


def test_a_signal_of_an_unknown_kind_is_refused(durable: Any) -> None:
    labels = {"alertname": "x", "alias": "nano", "signal": "moon"}
    assert deliver(durable, alert(labels=labels)).status_code == 422
    assert durable.loop.engine.list() == []


def test_new_objects_in_a_bucket_start_one_run(durable: Any) -> None:
    events = [
        {"eventName": "s3:ObjectCreated:Put", "s3": {"bucket": {"name": "in"}, "object": {"key": key, "eTag": "e"}}}
        for key in ("a", "b", "a")
    ]
    answers = durable.send(N8N, "POST", "/v1/hooks/minio?alias=nano", {"Records": events}).json()["signals"]
    assert [answer["outcome"] for answer in answers] == ["started", "merged", "merged"]
    assert dict(durable.signals().num_signals) == {"data": 2}


def push(commit: str = "a" * 40) -> dict[str, str]:
    return {"alias": "nano", "ref": "refs/heads/main", "commit": commit, "image_digest": "sha256:" + "b" * 64}


def test_a_push_forks_the_last_good_run_where_training_begins(durable: Any) -> None:
    good = durable.start(key="good")
    durable.walk(good, *STEPS, then="succeeded")
    release(durable, good)
    bad = durable.start(key="bad")
    durable.walk(bad, "scrape")
    durable.send(OLGA, "POST", f"/v1/runs/{bad}/cancel", {})

    answers = [durable.send(PUSH, "POST", "/v1/hooks/push", push()).json() for _ in range(3)]

    assert [answer["outcome"] for answer in answers] == ["started", "merged", "merged"]
    view = durable.loop.engine.view(answers[0]["run_id"])
    assert view.parent == good
    assert (view.cause["source"], view.cause["evidence"]["commit"]) == ("push", "a" * 40)
    assert view.cause["evidence"]["by"] == PUSH
    assert {step.name for step in view.steps if step.origin} == {"scrape", "validate", "version", "tune"}
    assert durable.launched.count(answers[0]["run_id"]) == 1


def test_a_push_that_has_to_wait_is_a_fork_of_the_latest_good_run_when_its_time_comes(durable: Any) -> None:
    from steps.common.signals import advanced, open_signal_log

    good = durable.start(key="good")
    durable.walk(good, *STEPS, then="succeeded")
    release(durable, good)
    later = durable.start(key="later")
    advanced(open_signal_log(durable.loop.engine.store, "nano"), later, "training")

    assert durable.send(PUSH, "POST", "/v1/hooks/push", push()).json()["outcome"] == "collected"
    assert durable.send(PUSH, "POST", "/v1/hooks/push", push("c" * 40)).json()["outcome"] == "collected"
    assert durable.loop.start_due("nano") is None
    durable.walk(later, *STEPS, then="succeeded")
    release(durable, later)
    begun = durable.loop.start_due("nano")

    view = durable.loop.engine.view(begun.run_id)
    assert (view.parent, view.cause["source"]) == (later, "push")
    assert {step.name for step in view.steps if step.origin} == {"scrape", "validate", "version", "tune"}
    assert len(durable.loop.engine.list()) == 3
    assert durable.signals().pending == {}


def test_a_fork_answers_for_no_new_data_and_a_whole_run_for_both(durable: Any) -> None:
    from steps.common.signals import advanced, open_signal_log

    log = open_signal_log(durable.loop.engine.store, "nano")
    good = durable.start(key="good")
    durable.walk(good, *STEPS, then="succeeded")
    release(durable, good)
    forked = durable.send(PUSH, "POST", "/v1/hooks/push", push()).json()["run_id"]
    assert deliver(durable, alert()).json()["signals"][0]["outcome"] == "collected"
    advanced(log, forked, "training")
    assert durable.send(PUSH, "POST", "/v1/hooks/push", push("c" * 40)).json()["outcome"] == "collected"
    durable.walk(forked, "train", "evaluate", then="succeeded")
    release(durable, forked)

    begun = durable.loop.start_due("nano")

    view = durable.loop.engine.view(begun.run_id)
    assert (view.parent, view.cause["source"]) == ("", "drift")
    assert durable.signals().pending == {}
    assert durable.signals().active.num_evidence == 2


def test_what_waits_before_the_first_release_gets_the_run_that_it_asked_for(durable: Any) -> None:
    from steps.common.signals import advanced, open_signal_log

    first = durable.start()
    advanced(open_signal_log(durable.loop.engine.store, "nano"), first, "training")
    assert deliver(durable, alert()).json()["signals"][0]["outcome"] == "collected"
    durable.send(OLGA, "POST", f"/v1/runs/{first}/cancel", {})

    begun = durable.loop.start_due("nano")

    assert durable.loop.engine.config(begun.run_id).recipe == "nano"
    assert durable.loop.engine.view(begun.run_id).cause["source"] == "drift"


def release(durable: Any, run_id: str) -> None:
    """Ends the round of a run whose journal says that it has succeeded."""
    from steps.common.signals import finished, open_signal_log
    from workflows.configs import RECIPES

    policy = RECIPES["nano"]().signals.model_copy(update={"cooldown_s": 0.0})
    log, now = open_signal_log(durable.loop.engine.store, "nano"), durable.loop.engine.store.now()
    finished(log, run_id, "promoted", policy, now=now, champion=None)


def test_a_push_without_a_run_to_fork_starts_a_whole_one(durable: Any) -> None:
    answer = durable.send(PUSH, "POST", "/v1/hooks/push", push()).json()
    assert answer["outcome"] == "started"
    assert durable.loop.engine.view(answer["run_id"]).parent == ""


@pytest.mark.parametrize("subject", [VIC, "Person::adam", ALERTMANAGER])
def test_who_may_not_start_starts_nothing(subject: str, durable: Any) -> None:
    assert durable.send(subject, "POST", "/v1/runs", {"recipe": "nano"}).status_code == 403
    assert durable.audited()[-1]["decision"] == "deny"
    assert durable.loop.engine.list() == []


class TestProtectedAliases:
    RULE = "approval.required: must be true (it is false), because the alias 'nano' is protected"

    def test_a_run_that_could_never_release_is_not_started(self, open_durable: Any) -> None:
        durable = open_durable(protected=True)
        answer = durable.send(OLGA, "POST", "/v1/runs", {"recipe": "nano"})
        assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
        assert self.RULE in answer.json()["detail"]
        assert (durable.loop.engine.list(), durable.launched, durable.signals().active) == ([], [], None)
        body = {"recipe": "nano", "overrides": {"approval.required": True}}
        assert durable.send(OLGA, "POST", "/v1/runs", body).json()["outcome"] == "started"

    def test_nor_is_a_fork(self, open_durable: Any) -> None:
        durable = open_durable(protected=True)
        run_id = durable.start(**{"approval.required": True})
        durable.walk(run_id, *STEPS, then="succeeded")
        path = f"/v1/runs/{run_id}/fork"
        refused = durable.send(OLGA, "POST", path, {"from_step": "deploy", "overrides": {"approval.required": False}})
        assert (refused.status_code, self.RULE in refused.json()["detail"]) == (422, True)
        assert len(durable.loop.engine.list()) == 1

    def test_a_signal_is_suppressed_with_the_reason(self, open_durable: Any) -> None:
        durable = open_durable(protected=True)
        signal = deliver(durable, alert()).json()["signals"][0]
        assert (signal["outcome"], self.RULE in signal["reason"]) == ("suppressed", True)
        assert durable.loop.engine.list() == []

    def test_a_signal_starts_a_recipe_that_asks_for_approval(self, open_durable: Any) -> None:
        settings = AliasSettings(recipe="nano", overrides=("approval.required=true",))
        durable = open_durable(protected=True, alias=settings)
        assert deliver(durable, alert()).json()["signals"][0]["outcome"] == "started"
