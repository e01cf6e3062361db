"""Admission: once per cause, one run at a time, and nothing lost between the signal log and the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.common import releases, signals
from steps.common.signals import open_signal_log
from workflows.api import Loop, NotAdmitted, Start
from workflows.configs import RECIPES, PipelineConfig, load
from workflows.engine import RunMismatch, StepNotFound
from workflows.log import Blobs, FailpointHit, TreeRef, encode, open_store


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(f"file://{tmp_path}/storage")


@pytest.fixture
def config() -> PipelineConfig:
    return load("nano", None, [])


def test_a_run_asked_for_by_hand_gets_a_journal_and_holds_the_alias(loop: Loop, config: PipelineConfig) -> None:
    begun = loop.start_by_hand(config, by="ada")

    view = loop.engine.view(begun.run_id)
    active = open_signal_log(loop.engine.store, "nano").refresh().active
    assert (view.status, begun.merged) == ("pending", False)
    assert active is not None
    assert (active.run_id, active.override_by, active.started) == (begun.run_id, "ada", True)
    assert view.cause["source"] == "manual"


def test_the_same_id_with_the_same_inputs_attaches_and_with_others_is_refused(
    loop: Loop, config: PipelineConfig
) -> None:
    loop.start_by_hand(config, run_id="mine")

    assert loop.start_by_hand(config, run_id="mine").run_id == "mine"
    with pytest.raises(RunMismatch, match="num_trials"):
        loop.start_by_hand(load("nano", None, ["tune.num_trials=3"]), run_id="mine")


def test_a_second_run_is_refused_while_one_holds_the_alias_and_told_what_to_do(
    loop: Loop, config: PipelineConfig
) -> None:
    first = loop.start_by_hand(config)
    signals.advanced(open_signal_log(loop.engine.store, "nano"), first.run_id, "training")

    with pytest.raises(NotAdmitted, match=f"--resume {first.run_id}"):
        loop.start_by_hand(config)


def test_one_cause_starts_one_run_however_often_it_comes(loop: Loop, config: PipelineConfig) -> None:
    found = loop.signal(config, "alert", window="2026-01-01T00")

    begun = [loop.start(config, found) for _ in range(50)]

    assert len({each.run_id for each in begun}) == 1
    assert [each.merged for each in begun] == [False] + [True] * 49
    assert len(loop.engine.list()) == 1


def promote(loop: Loop, version: str, run_id: str) -> None:
    """Makes a model of that version the champion."""
    log = releases.open_release_log(loop.engine.store, "nano")
    model = releases.ReleasedModel(version, TreeRef(version * 64, 10, 2), {}, "pages@v1", run_id)
    opened = releases.open_rollout(
        rollout_id=version,
        challenger=model,
        run_id=run_id,
        epoch=1,
        at=1.0,
        deadline_at=9.0,
        limits=releases.Limits(),
        stage="canary",
        weight=0.5,
        serving={},
    )
    log.append(opened)
    log.append(releases.promote(version, version, epoch=1, at=2.0, reasons=()))


def test_a_window_gets_one_run_whatever_is_promoted_between(loop: Loop, config: PipelineConfig) -> None:
    first = loop.start_once(config, "schedule", window="monday", run_id="r1", by="Service::airflow")
    assert first == Start("r1", merged=False)
    assert loop.start_once(config, "schedule", window="monday", run_id="r1") == first
    with pytest.raises(RunMismatch, match="num_trials"):
        loop.start_once(load("nano", None, ["tune.num_trials=3"]), "schedule", window="monday", run_id="r1")

    log = open_signal_log(loop.engine.store, "nano")
    signals.finished(log, "r1", "promoted", config.signals, now=0.0, champion="7")
    promote(loop, "7", "r1")

    assert loop.start_once(config, "schedule", window="monday", run_id="r1") == first
    assert loop.start_once(config, "schedule", window="monday", run_id="r2") == Start("r1", merged=True)
    assert loop.engine.view("r1").cause["evidence"] == {"by": "Service::airflow"}


def test_a_schedule_keeps_to_cooldown_and_budget_and_a_person_does_not(loop: Loop, config: PipelineConfig) -> None:
    loop.start_once(config, "schedule", window="monday")
    log, now = open_signal_log(loop.engine.store, "nano"), loop.engine.store.now()
    active = log.refresh().active
    assert active is not None
    assert active.override_by is None
    loop.engine.cancel(active.run_id)
    signals.finished(log, active.run_id, "unchanged", config.signals, now=now, champion=None)

    with pytest.raises(NotAdmitted, match="of rest are left"):
        loop.start_once(config, "schedule", window="tuesday")
    begun = loop.start_once(config, "manual", window="tuesday", by="ada")

    assert not begun.merged
    active = log.refresh().active
    assert active is not None
    assert (active.run_id, active.override_by) == (begun.run_id, "ada")


def test_a_crash_between_admission_and_journal_is_made_good(loop: Loop, config: PipelineConfig) -> None:
    found = loop.signal(config, "schedule", window="noon")
    log = open_signal_log(loop.engine.store, "nano")
    request = {"config": config.model_dump(mode="json", by_alias=True)}
    admitted = signals.admit(log, found, config.signals, now=loop.engine.store.now(), request=request)
    assert isinstance(admitted, signals.Admitted)
    assert loop.engine.list() == []

    loop.settle("nano")

    assert [run.run_id for run in loop.engine.list()] == [admitted.run_id]
    assert loop.engine.config(admitted.run_id) == config


def finished_run(loop: Loop, config: PipelineConfig) -> str:
    """A run whose crawl has succeeded and that was cancelled then, as forks find it."""
    run_id = loop.start_by_hand(config).run_id
    loop.engine.cancel(run_id)
    loop.settle("nano")
    return run_id


@pytest.mark.parametrize("where", ["api.after-admission", "api.after-journal"])
@pytest.mark.parametrize("way", ["start", "fork"])
def test_dying_between_admission_and_started_leaves_a_run_that_settle_begins(
    loop: Loop, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch, where: str, way: str
) -> None:
    parent = finished_run(loop, config)
    monkeypatch.setenv("EVERLOOP_FAILPOINT", f"{where}=raise")
    with pytest.raises(FailpointHit):
        loop.fork(parent, "tune", None) if way == "fork" else loop.start_by_hand(config)
    monkeypatch.delenv("EVERLOOP_FAILPOINT")

    Loop(loop.storage).settle("nano")
    Loop(loop.storage).settle("nano")

    active = open_signal_log(loop.engine.store, "nano").refresh().active
    assert active is not None
    assert active.started
    view = loop.engine.view(active.run_id)
    assert (view.status, view.parent) == ("pending", parent if way == "fork" else "")
    assert {run.run_id for run in loop.engine.list()} == {parent, active.run_id}


def test_a_fork_that_cannot_be_made_never_holds_the_alias(loop: Loop, config: PipelineConfig) -> None:
    parent = finished_run(loop, config)

    with pytest.raises(StepNotFound, match="bake"):
        loop.fork(parent, "bake", None)

    assert open_signal_log(loop.engine.store, "nano").refresh().active is None


def test_a_fork_is_refused_while_another_run_has_just_begun(loop: Loop, config: PipelineConfig) -> None:
    parent = finished_run(loop, config)
    first = loop.start_by_hand(config)

    with pytest.raises(NotAdmitted, match=first.run_id):
        loop.fork(parent, "tune", None)

    assert {run.run_id for run in loop.engine.list()} == {parent, first.run_id}


def test_what_was_admitted_and_can_never_begin_gives_the_alias_back(loop: Loop, config: PipelineConfig) -> None:
    log = open_signal_log(loop.engine.store, "nano")
    found = loop.signal(config, "manual", window="w", reason="fork")
    request = {"config": config.model_dump(mode="json", by_alias=True), "fork": {"of": "never", "from": "tune"}}
    signals.admit(log, found, config.signals, now=loop.engine.store.now(), request=request, run_id="child")

    loop.settle("nano")

    assert log.refresh().active is None
    assert not loop.start_by_hand(config).merged


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_config_that_was_written_down_is_the_same_request(recipe: str, tmp_path: Path) -> None:
    config = load(recipe, None, [])
    blobs = Blobs(open_store(f"file://{tmp_path}"))
    again = PipelineConfig.model_validate(config.model_dump(mode="json", by_alias=True))

    assert json.dumps(encode(again, blobs)) == json.dumps(encode(config, blobs))


def test_a_cancelled_run_gives_the_alias_back(loop: Loop, config: PipelineConfig) -> None:
    first = loop.start_by_hand(config)
    loop.engine.cancel(first.run_id)

    second = loop.start_by_hand(config)

    assert second.run_id != first.run_id
    past = open_signal_log(loop.engine.store, "nano").refresh().run_of(first.run_id)
    assert past is not None
    assert past.outcome == "cancelled"


def test_a_waiting_signal_without_a_champion_starts_nothing(loop: Loop, config: PipelineConfig) -> None:
    log = open_signal_log(loop.engine.store, "nano")
    signals.raise_signal(log, loop.signal(config, "drift", window="w1"), now=loop.engine.store.now())

    assert loop.start_due("nano") is None
