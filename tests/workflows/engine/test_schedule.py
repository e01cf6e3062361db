"""The decisions of a runner, without Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Bounds, Engine, NotWaiting, RunBusy, RunOver
from workflows.engine.schedule import Outcome
from workflows.log import Fenced, Log


def simulated(engine: Engine, builder: object, config: dict[str, object], **options: Bounds) -> Simulated:
    run_id = engine.start(builder, config)  # type: ignore[arg-type]  # any builder of the test graphs
    found = Simulated(engine, run_id, **options)
    found.claim()
    return found


def test_a_run_goes_from_start_to_end(engine: Engine, folder: str) -> None:
    runner = simulated(engine, graphs.small, {"folder": folder})
    assert runner.finish().status == "succeeded"
    assert engine.output(runner.run_id) == 13


def test_completions_that_are_ready_together_share_a_record_with_what_they_start(engine: Engine, folder: str) -> None:
    runner = simulated(engine, graphs.fan, {"folder": folder, "width": 40})
    runner.write()
    while runner.work():
        pass
    record = runner.write()
    assert record is not None
    assert len(record.data["done"]) == 40
    assert record.data["started"] == [["total", 1]]


def test_no_more_is_started_than_the_bounds_allow(engine: Engine, folder: str) -> None:
    runner = simulated(engine, graphs.fan, {"folder": folder, "width": 9}, bounds=Bounds(max_running=4))
    runner.write()
    assert len(runner.started) == 4
    runner.work()
    runner.write()
    assert len(runner.log.state.running) == 4


def test_outcomes_too_large_for_one_record_are_spread(engine: Engine, folder: str) -> None:
    runner = simulated(engine, graphs.fan, {"folder": folder, "width": 6})
    runner.write()
    brought = [Outcome(step, attempt, "done", "x" * 10, num_bytes=150_000) for step, attempt in runner.started]
    runner.brought = brought
    first = runner.write()
    assert first is not None
    assert len(first.data["done"]) == 2


def test_an_outcome_that_nobody_waits_for_any_more_is_passed_over(engine: Engine, folder: str) -> None:
    runner = simulated(engine, graphs.chain, {"folder": folder, "length": 2})
    runner.write()
    runner.brought = [Outcome("add0", 7, "done", 1), Outcome("add1", 1, "done", 1), Outcome("never", 1, "done", 1)]
    assert runner.write() is None


def test_an_older_claim_writes_nothing(engine: Engine, folder: str) -> None:
    old = simulated(engine, graphs.chain, {"folder": folder, "length": 2})
    old.write()
    old.work()
    new = Simulated(engine, old.run_id)
    new.claim()
    with pytest.raises(Fenced):
        old.write()
    assert new.finish().status == "succeeded"
    with pytest.raises((Fenced, RunOver)):
        old.write()


def test_a_claim_that_was_overtaken_is_refused(engine: Engine, folder: str) -> None:
    from workflows.engine.claims import claim

    run_id = engine.start(graphs.chain, {"folder": folder, "length": 1})
    Simulated(engine, run_id).claim()
    late: Log[object] = Log(engine.store, f"runs/{run_id}", engine._fold)  # type: ignore[arg-type]
    with pytest.raises(RunBusy):
        late.append(
            lambda state: claim(
                engine.store,
                run_id,
                state,
                ttl_s=-1.0,
                expected=None,
                at=0.0,
                changes={},  # type: ignore[arg-type]
            )
        )


def test_a_loop_of_a_thousand_continuations_keeps_ids_and_look_ups_short(engine: Engine, folder: str) -> None:
    runner = simulated(engine, graphs.loop_graph, {"folder": folder, "rounds": 1000})
    state = runner.finish()
    assert state.status == "succeeded"
    assert engine.output(runner.run_id) == 7
    assert max(len(step) for step in state.steps) < 40
    assert {found.owner for name, found in state.steps.items() if name.startswith("count_down/")} == {"count_down"}


def test_waits_end_by_time_delivery_or_decision_and_only_once(engine: Engine) -> None:
    runner = simulated(engine, graphs.waits_only, {"subject": "model", "expires_s": 100})
    assert runner.finish(now=10.0).status == "parked"
    wait = engine.view(runner.run_id).waits[0]
    # Its clock started with the run.
    assert wait.due_at is not None
    assert wait.due_at == wait.opened_at + 100
    engine.approve(runner.run_id, "ship", by="ann", approved=False, reason="no")
    again = Simulated(engine, runner.run_id)
    again.claim()
    assert again.finish(now=wait.due_at + 1).status == "succeeded"
    assert (engine.output(runner.run_id).outcome, engine.output(runner.run_id).by) == ("rejected", "ann")


def test_an_expired_approval_is_not_granted(engine: Engine) -> None:
    runner = simulated(engine, graphs.waits_only, {"subject": "model", "expires_s": 1e-9})
    with pytest.raises(NotWaiting, match="expired"):
        engine.approve(runner.run_id, "ship", by="ann")
    assert runner.finish(now=engine.store.now() + 1).status == "succeeded"
    assert engine.output(runner.run_id).outcome == "expired"


def test_a_run_of_waits_alone_needs_no_ray(tmp_path: Path) -> None:
    def connect() -> None:
        raise AssertionError("nothing needs a worker")

    engine = Engine(str(tmp_path / "storage"), connect=connect)
    run_id = engine.start(graphs.waits_only, {"subject": 1})
    assert engine.drive(run_id).status == "parked"
    engine.approve(run_id, "ship", by="ann")
    assert engine.drive(run_id).status == "succeeded"


def test_parked_runs_do_not_grow_by_being_looked_at(engine: Engine) -> None:
    run_id = engine.start(graphs.waits_only, {"subject": 1})
    engine.drive(run_id)
    length = engine.verify(run_id).length
    for _ in range(3):
        assert engine.drive(run_id).status == "parked"
        assert engine.resume_all() == []
    assert engine.verify(run_id).length == length


def test_a_run_taken_up_in_vain_too_often_is_dead_until_a_person_drives_it(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 1})
    for _ in range(3):
        Simulated(engine, run_id).claim()
    ended = Engine(engine.store.uri, pace=engine.pace)
    object.__setattr__(ended, "pace", type(engine.pace)(ttl_s=-1.0))
    (view,) = ended.resume_all(max_resumes=3)
    assert (view.status, view.reason) == ("dead", "taken up 3 times without finishing anything")
    assert ended.due() == []
    last = Simulated(engine, run_id)
    last.claim()
    assert last.finish().status == "succeeded"
