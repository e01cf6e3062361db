"""What the end of a job, or of a run, means to the task."""

from __future__ import annotations

import json

import pytest
from everloop.outcomes import Follow, Outcome, judge_job, judge_run, last_json

SUMMARY = {"run_id": "r", "status": "succeeded", "release": "promoted"}


def judge(state: str, exit_code: int | None = None, logs: str = "") -> Outcome | Follow:
    return judge_job(state, exit_code, "words of Ray", logs, "r")


def test_the_last_json_line_is_the_result() -> None:
    logs = 'starting\n{"run_id": "old"}\n' + json.dumps(SUMMARY) + "\nstopping\n"
    assert judge("SUCCEEDED", 0, logs) == Outcome("succeeded", "r", result=SUMMARY)


def test_success_without_a_result_still_names_the_run() -> None:
    assert judge("SUCCEEDED", 0, "no json\n") == Outcome("succeeded", "r", result={"run_id": "r"})


def test_a_run_that_waits_for_a_person_is_followed() -> None:
    assert judge("FAILED", 3) == Follow("r", "waits for a person")


def test_a_run_that_was_merged_into_another_is_followed_there() -> None:
    said = "error: not started: run x9 holds the alias 'nano'; go on with it: --resume x9, or drop it: python -m a\n"
    found = judge("FAILED", 2, said)
    assert isinstance(found, Follow)
    assert found.run_id == "x9"
    assert judge("SUCCEEDED", 0, '{"outcome": "merged", "run_id": "x9"}') == Follow(
        "x9", "merged into a run that is under way"
    )


@pytest.mark.parametrize(
    ("state", "exit_code", "logs"),
    [
        ("FAILED", 2, "error: not started: 100 s of rest are left; it is counted in the signal log\n"),
        ("SUCCEEDED", 0, '{"outcome": "suppressed", "reason": "100 s of rest are left"}'),
        ("FAILED", 2, '{"outcome": "suppressed", "reason": "100 s of rest are left"}'),
    ],
)
def test_a_suppressed_run_tells_why(state: str, exit_code: int, logs: str) -> None:
    found = judge(state, exit_code, logs)
    assert isinstance(found, Outcome)
    assert found.end == "suppressed"
    assert "100 s of rest" in found.reason


def test_a_run_that_another_runner_holds_is_followed() -> None:
    assert judge("FAILED", 1, "error: run 'r' is held by host:1, heard of 2 s ago\n") == Follow(
        "r", "another runner drives the run"
    )


def test_a_run_that_began_with_another_config_is_not_tried_again() -> None:
    found = judge("FAILED", 1, "error: run 'r' exists with other inputs:\n  tune.max_concurrent_trials: 2 -> 1\n")
    assert isinstance(found, Outcome)
    assert found.end == "refused"
    assert "max_concurrent_trials" in found.reason


@pytest.mark.parametrize("exit_code", [None, -9, 137, 143])
def test_a_killed_driver_is_no_failure_of_the_run(exit_code: int | None) -> None:
    found = judge("FAILED", exit_code)
    assert isinstance(found, Outcome)
    assert found.end == "killed"


@pytest.mark.parametrize(("exit_code", "end"), [(1, "failed"), (2, "refused")])
def test_a_bad_end_shows_the_last_lines(exit_code: int, end: str) -> None:
    found = judge("FAILED", exit_code, "\n".join(f"line {n}" for n in range(100)))
    assert isinstance(found, Outcome)
    assert found.end == end
    assert found.reason.splitlines() == [f"line {n}" for n in range(80, 100)]


@pytest.mark.parametrize(("status", "end"), [("cancelled", "stopped"), ("dead", "refused"), ("failed", "failed")])
def test_a_driver_that_ended_because_the_run_was_given_up_says_so(status: str, end: str) -> None:
    found = judge("FAILED", 1, json.dumps({"run_id": "r", "status": status, "reason": "why"}) + "\n")
    assert isinstance(found, Outcome)
    assert found.end == end


def test_a_stopped_job_was_stopped_by_somebody() -> None:
    found = judge("STOPPED")
    assert isinstance(found, Outcome)
    assert found.end == "stopped"


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("dead", "refused"),
        ("cancelled", "stopped"),
        ("deleted", "stopped"),
        ("pending", None),
        ("running", None),
        ("parked", None),
    ],
)
def test_the_status_of_a_followed_run_decides(status: str, end: str | None) -> None:
    found = judge_run({"run_id": "r", "status": status, "reason": "why"}, "r")
    assert (found.end if found else None) == end


def test_an_outcome_crosses_as_plain_data() -> None:
    outcome = Outcome("succeeded", "r", result=SUMMARY)
    assert Outcome.load(json.loads(json.dumps(outcome.dump()))) == outcome


def test_broken_json_lines_are_passed_over() -> None:
    assert last_json('{"a": 1}\n{broken\n[1]\n') == {"a": 1}
