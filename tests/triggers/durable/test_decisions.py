"""Approvals, cancellation and resumption through the door, on real journals."""

from __future__ import annotations

import threading
from typing import Any

import pytest

OLGA, ANN, VIC = "Person::olga", "Person::ann", "Person::vic"


def issue(durable: Any, run_id: str, **changes: Any) -> str:
    wait = durable.loop.engine.view(run_id).waits[0]
    facts = {"team": "local", "protected": True, "authors": (OLGA,), **changes}
    return str(durable.access.approvals.issue(run_id, wait.name, wait.subject, **facts))


def decide(durable: Any, token: str, subject: str = ANN, decision: str = "approve") -> Any:
    return durable.send(subject, "POST", f"/v1/approvals/{token}", {"decision": decision, "reason": "looks well"})


def test_a_decision_by_link_stands_in_the_journal_and_the_run_goes_on(durable: Any) -> None:
    run_id = durable.waiting()
    durable.launched.clear()
    assert decide(durable, issue(durable, run_id)).status_code == 200

    decisions = durable.records(run_id, "decided")
    assert [(found["approved"], found["by"], found["reason"]) for found in decisions] == [(True, ANN, "looks well")]
    assert durable.launched == [run_id]


def test_many_decisions_at_once_are_one(durable: Any) -> None:
    run_id = durable.waiting()
    tokens = [issue(durable, run_id), issue(durable, run_id)]
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda token=token, decision=decision: answers.append(
                decide(durable, token, decision=decision).status_code
            )
        )
        for token in tokens
        for decision in ("approve", "reject", "approve")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(durable.records(run_id, "decided")) == 1
    assert answers.count(200) >= 1
    assert set(answers) <= {200, 409}


def test_four_eyes_hold_even_if_the_link_forgot_them(open_durable: Any) -> None:
    durable = open_durable(protected=True)
    run_id = durable.waiting()
    token = issue(durable, run_id, protected=False, authors=())
    assert decide(durable, token, OLGA).status_code == 403
    assert durable.records(run_id, "decided") == []
    assert decide(durable, token, ANN).status_code == 200


def test_what_stands_at_the_gate_now_is_what_counts(durable: Any) -> None:
    run_id = durable.waiting()
    token = durable.access.approvals.issue(run_id, "release", "e" * 64, team="local", protected=False, authors=())
    assert decide(durable, token).status_code == 409
    assert durable.records(run_id, "decided") == []


def test_a_cancelled_run_frees_its_alias(durable: Any) -> None:
    run_id = durable.start()
    assert durable.send(OLGA, "POST", f"/v1/runs/{run_id}/cancel", {"reason": "x"}).json()["status"] == "cancelled"
    assert durable.signals().active is None
    assert durable.send(OLGA, "POST", f"/v1/runs/{run_id}/resume").status_code == 409


def test_a_failed_run_is_launched_again_unless_another_one_holds_the_alias(durable: Any) -> None:
    run_id = durable.start()
    durable.walk(run_id, "scrape", then="failed")
    assert durable.send(OLGA, "POST", f"/v1/runs/{run_id}/resume").status_code == 202
    assert durable.launched == [run_id, run_id]

    durable.send(OLGA, "POST", f"/v1/runs/{run_id}/cancel", {})
    assert durable.send(VIC, "POST", f"/v1/runs/{run_id}/resume").status_code == 403


@pytest.mark.parametrize("subject", [VIC, "Person::adam", "Service::n8n", "CI::push"])
def test_nobody_decides_who_may_not(subject: str, durable: Any) -> None:
    run_id = durable.waiting()
    assert decide(durable, issue(durable, run_id), subject).status_code == 403
    assert durable.records(run_id, "decided") == []


def test_a_notice_stands_in_the_log_once_a_key(durable: Any) -> None:
    body = {"event": "schedule.missed", "severity": "warning", "title": "t", "text": "x", "alias": "nano"}
    answers = [
        durable.send("Service::n8n", "POST", "/v1/hooks/notify", body, **{"idempotency-key": "n1"}).json()["outcome"]
        for _ in range(3)
    ]
    assert answers == ["told", "known", "known"]
    assert durable.send(VIC, "POST", "/v1/hooks/notify", body).status_code == 403
    assert durable.send("Service::n8n", "POST", "/v1/hooks/notify", {**body, "x": 1}).status_code == 422
    assert durable.send("Service::n8n", "POST", "/v1/hooks/notify", {**body, "alias": "none"}).status_code == 404


def test_the_outbox_shows_what_its_reader_may_see(durable: Any) -> None:
    from workflows.outbox import open_outbox

    assert durable.send(VIC, "GET", "/v1/outbox").json() == {"pending": [], "dead": [], "delivered": []}
    log = open_outbox(durable.loop.engine.store)
    found = {
        "id": "e1", "log": "notices", "index": 0, "position": 0, "event": "run.failed", "severity": "warning",
        "title": "a title", "run_id": "", "alias": "nano", "to": ["n8n"],
    }  # fmt: skip
    from workflows.log import Draft

    log.append(lambda _: Draft("collected", {"cursors": {}, "found": [found], "since": 0.0, "at": 0.0}))
    shown = durable.send(VIC, "GET", "/v1/outbox").json()
    assert [(event["id"], event["deliveries"][0]["receiver"]) for event in shown["pending"]] == [("e1", "n8n")]
    assert durable.send("Person::adam", "GET", "/v1/outbox").json()["pending"] == []
