"""What people are told of rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from steps.common import releases
from steps.common.releases import Evidence, Limits, ReleasedModel, ReleaseState, open_release_log
from workflows.log import Log, TreeRef, open_store


def model(version: str) -> ReleasedModel:
    return ReleasedModel(version, TreeRef(version.rjust(64, "0"), 10, 2), {"lr": 0.1}, "pages@v3", "run-1")


def opening(version: str, weight: float = 0.1) -> releases.Decide:
    return releases.open_rollout(
        rollout_id=f"rollout-{version}",
        challenger=model(version),
        run_id=f"run-{version}",
        epoch=1,
        at=100.0,
        deadline_at=200.0,
        limits=Limits(ttft_s=1.0),
        stage="canary",
        weight=weight,
        serving={},
    )


def look() -> Evidence:
    return Evidence(
        look="look-1",
        at=150.0,
        step=0,
        requests={"champion": 90, "challenger": 10},
        units={"champion": 90, "challenger": 10},
        bad={"failed": {"champion": 0, "challenger": 7}},
        e_values={"failed": 412.0},
        e_value=412.0,
        upper_bound=0.9,
    )


@pytest.fixture
def log(tmp_path: Any) -> Log[ReleaseState]:
    return open_release_log(open_store(str(tmp_path)), "demo")


def told(log: Log[ReleaseState]) -> list[Mapping[str, Any]]:
    return [note for record in log.records() for note in record.notify]


def test_a_first_release_is_told_from_start_to_promotion(log: Log[ReleaseState]) -> None:
    log.append(opening("1"))
    log.append(releases.promote("rollout-1", "1", epoch=1, at=160.0, reasons=("first of its name",)))

    started, promoted = told(log)
    assert (started["event"], promoted["event"]) == ("canary.started", "canary.promoted")
    assert (started["alias"], started["run_id"]) == ("demo", "run-1")
    assert "pages@v3" in started["text"]
    assert "10%" in started["text"]
    assert "first of its name." in promoted["text"]
    assert promoted["facts"]["seconds"] == 60.0


def test_a_roll_back_gives_the_evidence_and_says_who_answers(log: Log[ReleaseState]) -> None:
    log.append(opening("1"))
    log.append(releases.promote("rollout-1", "1", epoch=1, at=110.0, reasons=("first",)))
    log.append(opening("2", weight=0.25))
    log.append(releases.record_evidence("rollout-2", look(), epoch=1))
    log.append(releases.roll_back("rollout-2", epoch=1, at=170.0, reasons=("it fails",), condemn=True))

    note = told(log)[-1]
    assert (note["event"], note["severity"]) == ("canary.rolled_back", "warning")
    assert "rolled back at 25%" in note["title"]
    assert "Version 1 goes on answering. The version is condemned" in note["text"]
    assert "odds 412 to 1" in note["text"]
    assert note["facts"]["requests"] == {"champion": 90, "challenger": 10}


def test_what_a_person_aborts_and_what_ends_undecided_is_told_too(log: Log[ReleaseState]) -> None:
    log.append(opening("1"))
    log.append(releases.hold("rollout-1", epoch=1, at=170.0, reasons=("too few requests",)))
    log.append(opening("2"))
    log.append(releases.abort("rollout-2", by="ada", at=180.0))

    events = [note["event"] for note in told(log)]
    assert events == ["canary.started", "canary.held", "canary.started", "canary.rolled_back"]
    assert "aborted by ada" in told(log)[-1]["text"]
    assert "Nobody answers" in told(log)[-1]["text"]


def test_weights_looks_and_repeated_decisions_are_not_told(log: Log[ReleaseState]) -> None:
    log.append(opening("1"))
    log.append(opening("1"))
    log.append(releases.set_weight("rollout-1", epoch=1, step=1, stage="canary", weight=0.5, at=120.0))
    log.append(releases.record_evidence("rollout-1", look(), epoch=1))
    for _ in range(2):
        log.append(releases.promote("rollout-1", "1", epoch=1, at=160.0, reasons=("good",)))

    assert [note["event"] for note in told(log)] == ["canary.started", "canary.promoted"]
