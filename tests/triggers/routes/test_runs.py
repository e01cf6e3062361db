from __future__ import annotations

import json
from typing import Any

import pytest

OLGA, VIC, ADAM = "Person::olga", "Person::vic", "Person::adam"


def start(door: Any, subject: str = OLGA, **body: Any) -> Any:
    return door.send(subject, "POST", "/v1/runs", {"recipe": "nano", **body})


def started(door: Any) -> str:
    return str(start(door).json()["run_id"])


def test_a_run_is_started_by_whom_may_and_carries_who_and_why(door: Any) -> None:
    answer = start(door, reason="new pages", overrides={"train.max_steps": 3})
    assert answer.status_code == 202
    assert answer.json()["outcome"] == "started"
    assert door.loop.calls == [("start", "nano", OLGA, "new pages")]
    assert (door.audited()[-1]["principal"], door.audited()[-1]["action"]) == (OLGA, "start_run")


@pytest.mark.parametrize(("subject", "recipe"), [(VIC, "nano"), (ADAM, "nano"), (OLGA, "other-team")])
def test_a_run_is_not_started_by_others(subject: str, recipe: str, door: Any) -> None:
    answer = start(door, subject, recipe=recipe)
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems/denied"
    assert door.loop.runs == {}
    assert door.audited()[-1]["decision"] == "deny"


def test_a_repeated_request_with_the_same_key_starts_nothing_new(door: Any) -> None:
    answers = [
        door.send(OLGA, "POST", "/v1/runs", {"recipe": "nano"}, **{"idempotency-key": "form-1"}).json()
        for _ in range(3)
    ]
    assert [answer["outcome"] for answer in answers] == ["started", "merged", "merged"]
    assert len({answer["run_id"] for answer in answers}) == 1
    assert start(door).json()["outcome"] == "started"


def test_a_key_of_one_caller_means_nothing_to_another(door: Any) -> None:
    mine = door.send(OLGA, "POST", "/v1/runs", {"recipe": "nano"}, **{"idempotency-key": "k"}).json()["run_id"]
    theirs = door.send("Service::n8n", "POST", "/v1/runs", {"recipe": "nano"}, **{"idempotency-key": "k"}).json()[
        "run_id"
    ]
    assert mine != theirs


@pytest.mark.parametrize(
    "body",
    [
        {}, {"recipe": "nope"}, {"recipe": 3}, {"recipe": "nano", "unknown": 1}, {"recipe": "x" * 65},
        {"recipe": "nano", "overrides": {"nodots": 1}}, {"recipe": "nano", "overrides": []}, [], "nano", None,
    ],
)  # fmt: skip
def test_a_request_that_breaks_a_rule_is_told_which(body: Any, door: Any) -> None:
    answer = door.send(OLGA, "POST", "/v1/runs", body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/invalid-request"
    assert door.loop.runs == {}


def test_an_alias_that_is_held_is_a_conflict(door: Any) -> None:
    door.loop.holds_alias = True
    answer = start(door)
    assert answer.status_code == 409
    assert answer.json()["detail"] == "run r0 holds the alias"


def test_the_list_holds_what_the_caller_may_see(door: Any) -> None:
    run_id = started(door)
    assert [run["run_id"] for run in door.send(VIC, "GET", "/v1/runs").json()["runs"]] == [run_id]
    assert door.send(ADAM, "GET", "/v1/runs").json() == {"runs": []}


def test_looking_at_the_list_again_and_again_does_not_fill_the_audit_log(door: Any) -> None:
    for _ in range(5):
        started(door)
    before = len(door.audited())
    for _ in range(50):
        assert door.send(ADAM, "GET", "/v1/runs").json() == {"runs": []}
        door.send(ADAM, "GET", "/v1/outbox")
    new = door.audited()[before:]
    assert [(entry["event"], entry["of"], entry["asked"], entry["held_back"]) for entry in new] == [
        ("listed", "runs", 5, 5)
    ]


def test_a_run_is_shown_with_what_it_waits_for(door: Any) -> None:
    run_id = started(door)
    shown = door.send(VIC, "GET", f"/v1/runs/{run_id}").json()
    assert (shown["run_id"], shown["status"]) == (run_id, "running")
    assert shown["waits"] == [{"kind": "approval", "name": "release", "due_at": None}]
    assert door.send(ADAM, "GET", f"/v1/runs/{run_id}").status_code == 403


@pytest.mark.parametrize("run_id", ["run-none", "..", "%2e%2e", "a%2Fb", "a" * 200, "-", "%00", "%ff"])
def test_a_run_that_does_not_exist_is_a_4xx(run_id: str, door: Any) -> None:
    for method, path, body in (
        ("GET", "", None), ("GET", "/events", None), ("POST", "/resume", None), ("POST", "/cancel", {}),
        ("POST", "/fork", {"from_step": "train"}),
    ):  # fmt: skip
        assert door.send(OLGA, method, f"/v1/runs/{run_id}{path}", body).status_code in (404, 405, 422)


def test_a_run_is_resumed_and_cancelled_by_whom_may(door: Any) -> None:
    run_id = started(door)
    for action in ("resume", "cancel"):
        assert door.send(VIC, "POST", f"/v1/runs/{run_id}/{action}", {}).status_code == 403
    assert door.loop.view(run_id).status == "running"
    assert door.send(OLGA, "POST", f"/v1/runs/{run_id}/resume").status_code == 202
    answer = door.send(OLGA, "POST", f"/v1/runs/{run_id}/cancel", {"reason": "wrong dataset"})
    assert answer.json()["status"] == "cancelled"
    assert door.loop.calls[-2:] == [("resume", OLGA, run_id), ("cancel", OLGA, "wrong dataset", run_id)]


def test_a_run_that_is_over_is_not_cancelled(door: Any) -> None:
    run_id = started(door)
    door.loop._change(run_id, "succeeded", "end")
    answer = door.send(OLGA, "POST", f"/v1/runs/{run_id}/cancel", {})
    assert answer.status_code == 409
    assert "succeeded" in answer.json()["detail"]


def test_a_run_is_forked_at_a_step_that_it_has(door: Any) -> None:
    run_id = started(door)
    assert door.send(OLGA, "POST", f"/v1/runs/{run_id}/fork", {"from_step": "fly"}).status_code == 422
    assert door.send(VIC, "POST", f"/v1/runs/{run_id}/fork", {"from_step": "train"}).status_code == 403
    forked = door.send(OLGA, "POST", f"/v1/runs/{run_id}/fork", {"from_step": "train"})
    assert forked.status_code == 202
    assert forked.json()["run_id"] != run_id


def test_events_follow_a_run_to_its_end(door: Any) -> None:
    run_id = started(door)
    seen = []
    with door.client.stream("GET", f"/v1/runs/{run_id}/events", headers=door.headers(VIC)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:])["status"])
                door.loop._change(run_id, "succeeded", "end")
    assert seen in (["running", "succeeded"], ["succeeded"])


def test_events_end_after_their_time(open_door: Any) -> None:
    door = open_door(follow_max_s=0.05)
    run_id = started(door)
    answer = door.send(VIC, "GET", f"/v1/runs/{run_id}/events")
    assert answer.status_code == 200
    assert answer.text.startswith("event: run\n")
