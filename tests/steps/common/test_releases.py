from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from steps.common import releases
from steps.common.releases import Evidence, Limits, ReleasedModel, ReleaseFold, ReleaseState, open_release_log
from workflows.log import Log, TreeRef, open_store


def model(version: str, digest: str = "") -> ReleasedModel:
    return ReleasedModel(version, TreeRef(digest or version.rjust(64, "0"), 10, 2), {"lr": 0.1}, "pages@v1", "run-1")


def opening(version: str, **changes: Any) -> releases.Decide:
    settings: dict[str, Any] = {
        "rollout_id": f"rollout-{version}",
        "challenger": model(version),
        "run_id": "run-1",
        "epoch": 1,
        "at": 100.0,
        "deadline_at": 200.0,
        "limits": Limits(ttft_s=1.0),
        "stage": "canary",
        "weight": 0.1,
        "serving": {"max_batch": 4},
    }
    return releases.open_rollout(**{**settings, **changes})


@pytest.fixture
def log(tmp_path: Any) -> Log[ReleaseState]:
    made = open_release_log(open_store(str(tmp_path)), "demo")
    made.append(opening("1", stage="smoke", weight=0.0))
    made.append(releases.promote("rollout-1", "1", epoch=1, at=101.0, reasons=("first",)))
    return made


def evidence(look: str = "look-1") -> Evidence:
    return Evidence(
        look=look,
        at=150.0,
        step=0,
        requests={"champion": 9, "challenger": 1},
        units={"champion": 9, "challenger": 1},
        bad={"failed": {"champion": 0, "challenger": 1}},
        e_values={"failed": 3.0},
        e_value=3.0,
        upper_bound=0.9,
    )


def test_the_first_release_makes_a_champion(log: Log[ReleaseState]) -> None:
    assert log.state.champion == model("1")
    assert log.state.rollout is None
    assert [past.outcome for past in log.state.history] == ["promoted"]
    assert log.state.serving == {"max_batch": 4}


def test_who_approved_stands_in_the_record_of_the_promotion(log: Log[ReleaseState]) -> None:
    log.append(opening("2", approved_by=("Person::ann",)))
    record = log.append(releases.promote("rollout-2", "2", epoch=1, at=130.0, reasons=("better",)))
    assert record is not None
    assert record.data["approved_by"] == ["Person::ann"]
    assert [past.approved_by for past in log.state.history] == [(), ("Person::ann",)]


def test_a_rollout_runs_from_weight_to_weight_to_promotion(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    assert [each.version for each in log.state.wanted()] == ["1", "2"]
    log.append(releases.set_weight("rollout-2", epoch=1, step=1, stage="canary", weight=0.5, at=120.0))
    log.append(releases.record_evidence("rollout-2", evidence(), epoch=1, replayed=7))
    rollout = log.state.rollout
    assert rollout is not None
    assert (rollout.weight, rollout.step.index, rollout.num_looks, rollout.replayed) == (0.5, 1, 1, 7)
    log.append(releases.promote("rollout-2", "2", epoch=1, at=130.0, reasons=("better",)))
    assert (log.state.champion, log.state.previous) == (model("2"), model("1"))
    assert log.state.history[-1].evidence == evidence()


def test_decisions_taken_twice_are_recorded_once(log: Log[ReleaseState]) -> None:
    decisions = [
        opening("2"),
        releases.set_weight("rollout-2", epoch=1, step=1, stage="canary", weight=0.5, at=120.0),
        releases.record_evidence("rollout-2", evidence(), epoch=1),
        releases.promote("rollout-2", "2", epoch=1, at=130.0, reasons=("better",)),
    ]
    for decide in decisions:
        assert log.append(decide) is not None
        assert log.append(decide) is None
    assert log.append(decisions[0]) is None


def test_a_condemned_version_is_not_revived_under_any_name(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    log.append(releases.roll_back("rollout-2", epoch=1, at=130.0, reasons=("it failed",), condemn=True))
    assert log.state.champion == model("1")
    with pytest.raises(releases.VersionCondemned, match="it failed"):
        log.append(opening("2", rollout_id="again"))
    with pytest.raises(releases.VersionCondemned):
        log.append(opening("3", challenger=model("3", digest=model("2").model.sha256)))


def test_a_version_that_was_only_held_may_be_tried_again(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    log.append(releases.hold("rollout-2", epoch=1, at=130.0, reasons=("too little traffic",)))
    assert log.append(opening("2", rollout_id="again")) is not None


def test_one_rollout_at_a_time(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    with pytest.raises(releases.RolloutUnderWay) as refusal:
        log.append(opening("3"))
    assert refusal.value.deadline_at == 200.0


def test_only_the_model_under_rollout_is_promoted(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    with pytest.raises(releases.NoSuchRollout):
        log.append(releases.promote("rollout-2", "3", epoch=1, at=130.0, reasons=()))
    with pytest.raises(releases.NoSuchRollout):
        log.append(releases.promote("rollout-9", "2", epoch=1, at=130.0, reasons=()))
    assert log.state.champion == model("1")


def test_a_runner_that_was_replaced_is_refused(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    log.append(releases.claim("rollout-2", epoch=2))
    for decide in (
        releases.set_weight("rollout-2", epoch=1, step=1, stage="canary", weight=0.5, at=120.0),
        releases.record_evidence("rollout-2", evidence(), epoch=1),
        releases.promote("rollout-2", "2", epoch=1, at=130.0, reasons=()),
        releases.roll_back("rollout-2", epoch=1, at=130.0, reasons=(), condemn=True),
        releases.claim("rollout-2", epoch=1),
    ):
        with pytest.raises(releases.RolloutFenced):
            log.append(decide)
    assert log.append(releases.claim("rollout-2", epoch=2)) is None
    assert log.append(releases.promote("rollout-2", "2", epoch=2, at=130.0, reasons=())) is not None


def test_rollback_and_promotion_exclude_each_other(log: Log[ReleaseState]) -> None:
    log.append(opening("2"))
    rival = Log(log._store, log.name, ReleaseFold())
    rival.append(releases.roll_back("rollout-2", epoch=1, at=130.0, reasons=("bad",), condemn=True))
    with pytest.raises(releases.NoSuchRollout):
        log.append(releases.promote("rollout-2", "2", epoch=1, at=130.0, reasons=()))
    assert log.state.champion == model("1")


def test_anyone_may_abort_and_the_owner_is_refused_after_it(log: Log[ReleaseState]) -> None:
    log.append(opening("2", epoch=5))
    log.append(releases.abort("rollout-2", by="ann", at=140.0))
    past = log.state.finished("rollout-2")
    assert past is not None
    assert past.reasons == ("aborted by ann",)
    assert log.append(releases.abort("rollout-2", by="bob", at=141.0)) is None
    with pytest.raises(releases.NoSuchRollout):
        log.append(releases.set_weight("rollout-2", epoch=5, step=1, stage="canary", weight=0.5, at=150.0))


def test_a_state_survives_its_snapshot(log: Log[ReleaseState]) -> None:
    import json

    log.append(opening("2", approved_by=("Person::ann",)))
    log.append(releases.record_evidence("rollout-2", evidence(), epoch=1))
    fold = ReleaseFold()
    assert fold.load(json.loads(json.dumps(fold.dump(log.state)))) == log.state
    log.append(releases.roll_back("rollout-2", epoch=1, at=130.0, reasons=("bad",), condemn=True))
    assert fold.load(json.loads(json.dumps(fold.dump(log.state)))) == log.state


def test_another_process_reads_the_same_state(log: Log[ReleaseState], tmp_path: Any) -> None:
    log.append(opening("2"))
    assert open_release_log(open_store(str(tmp_path)), "demo").refresh() == log.state


def test_history_is_bounded(log: Log[ReleaseState]) -> None:
    state = replace(log.state, history=log.state.history * releases.MAX_HISTORY)
    fold = ReleaseFold()
    log.append(opening("2"))
    log.append(releases.hold("rollout-2", epoch=1, at=1.0, reasons=()))
    for record in log.records(2):
        state = fold.apply(state, record)
    assert len(state.history) == releases.MAX_HISTORY
    assert state.history[-1].version == "2"


@pytest.mark.parametrize(
    "error",
    [
        releases.VersionCondemned("2", "bad"),
        releases.RolloutUnderWay("r", "run", 3.0),
        releases.NoSuchRollout("r", None),
        releases.RolloutFenced("r", 1, 2),
    ],
)
def test_refusals_travel(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
