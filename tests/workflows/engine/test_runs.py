"""Runs on a real Ray: what they give, how they fail, how they are steered."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.engine import graphs
from tests.workflows.engine.conftest import QUICK, until
from workflows.engine import (
    Bounds,
    Engine,
    NoOutput,
    NotWaiting,
    RunMismatch,
    RunNotFound,
    RunOver,
    RunView,
    StepNotFound,
    SubjectMismatch,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_head")]


def test_a_graph_gives_its_result_and_each_step_runs_once(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.small, {"folder": folder})
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    assert engine.output(run_id) == 13
    assert engine.output(run_id, "left") == 2
    assert [graphs.seen(folder, name) for name in ("one", "left", "right", "total")] == [1, 1, 1, 1]
    assert engine.verify(run_id).ok
    assert engine.drive(run_id).status == "succeeded"
    assert graphs.seen(folder, "total") == 1


def test_a_step_of_a_chain_takes_one_record(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 20})
    engine.drive(run_id)
    assert engine.output(run_id) == 20
    # created, claimed, the first start, 20 results (each with the next start), the end.
    assert engine.verify(run_id).length == 1 + 1 + 1 + 20 + 1


def test_a_fan_out_gives_its_sum(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.fan, {"folder": folder, "width": 60})
    engine.drive(run_id)
    assert engine.output(run_id) == sum(range(60))


@pytest.mark.parametrize("trouble", ["dies", "no node"])
def test_a_step_that_loses_what_it_works_with_is_repeated_like_one_that_is_lost(
    engine: Engine, folder: str, trouble: str
) -> None:
    run_id = engine.start(graphs.helped_graph, {"folder": folder, "trouble": trouble})
    assert engine.drive(run_id).status == "succeeded"
    assert engine.output(run_id) == 7
    assert graphs.seen(folder, "with_helper") == 2


def test_a_step_whose_actor_cannot_be_made_has_failed_by_itself(engine: Engine, folder: str) -> None:
    view = engine.drive(engine.start(graphs.helped_graph, {"folder": folder, "trouble": "broken"}))
    assert view.status == "failed"
    assert "it cannot be made" in view.reason
    assert graphs.seen(folder, "with_helper") == 1


def test_a_start_with_the_same_inputs_attaches_and_with_others_shows_the_difference(
    engine: Engine, folder: str
) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 2}, run_id="mine")
    assert engine.start(graphs.chain, {"folder": folder, "length": 2}, run_id="mine") == run_id
    with pytest.raises(RunMismatch, match="length: 2 -> 3"):
        engine.start(graphs.chain, {"folder": folder, "length": 3}, run_id="mine")
    with pytest.raises(RunMismatch, match="builder"):
        engine.start(graphs.fan, {"folder": folder, "length": 2, "width": 1}, run_id="mine")


def test_failures_are_retried_as_often_as_the_step_says(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.flaky_graph, {"folder": folder, "failures": 2})
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    assert view.step("flaky").attempts == 3
    again = engine.start(graphs.flaky_graph, {"folder": folder + "2", "failures": 3})
    view = engine.drive(again)
    assert view.status == "failed"
    assert view.step("flaky").attempts == 3
    assert "Flaky: run 3" in view.reason


def test_a_terminal_error_is_not_retried(engine: Engine, folder: str) -> None:
    view = engine.drive(engine.start(graphs.flaky_graph, {"folder": folder, "failures": 2, "terminal": True}))
    assert view.status == "failed"
    assert view.step("flaky").attempts == 1
    error = view.step("flaky").error
    assert error is not None
    assert error.type == "tests.workflows.engine.graphs:Hopeless"
    assert "in flaky" in error.traceback


def test_a_failed_run_goes_on_from_the_failed_step(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.failing_graph, {"folder": folder})
    view = engine.drive(run_id)
    assert (view.status, view.step("add").status) == ("failed", "blocked")
    with pytest.raises(NoOutput, match="failed"):
        engine.output(run_id, "fails")
    assert engine.drive(run_id).status == "succeeded"
    assert engine.output(run_id) == 42


@pytest.mark.parametrize(("fail", "expected"), [(False, "fine"), (True, "builtins:ValueError")])
def test_a_caught_failure_is_a_bounded_value(engine: Engine, fail: bool, expected: str) -> None:
    run_id = engine.start(graphs.caught_graph, {"fail": fail})
    assert engine.drive(run_id).status == "succeeded"
    assert engine.output(run_id) == expected
    if fail:
        assert len(engine.output(run_id, "fragile").error.message) <= 2000


def test_a_loop_of_continuations_keeps_its_ids_short(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.loop_graph, {"folder": folder, "rounds": 60})
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    assert engine.output(run_id) == 7
    assert engine.output(run_id, "count_down") == 0
    assert view.steps[-1].name == "count_down/60/count_down"


def test_a_continuation_may_hold_continuations(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.nested_graph, {"folder": folder})
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    assert engine.output(run_id) == 1
    assert "nested/1/count_down/2/count_down" in [step.name for step in view.steps]


def test_a_lost_worker_is_another_attempt_that_sees_the_checkpoints(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.checkpoint_graph, {"folder": folder})
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    result = engine.output(run_id)
    assert result["attempt"] == 2
    assert result["previous"] == [[1, "part-1", {"attempt": 1, "scratch": True}]]
    assert len(result["token"]) == 32


def test_large_results_are_blobs(engine: Engine) -> None:
    run_id = engine.start(graphs.big_graph, {"size": 8 * 2**20})
    assert engine.drive(run_id).status == "succeeded"
    assert engine.output(run_id) == 8 * 2**20
    assert all(info.size < 20_000 for info in engine.store.list(f"runs/{run_id}"))


def test_an_attempt_out_of_time_is_stopped_and_repeated(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.timeout_graph, {"folder": folder, "seconds": 100.0})
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    assert engine.output(run_id) == "fine"
    assert view.step("too_long").attempts == 2


def test_a_step_that_finds_no_place_in_time_fails(engine: Engine) -> None:
    run_id = engine.start(graphs.queue_graph, {})
    assert engine.drive(run_id).status == "succeeded"
    assert engine.output(run_id) == "builtins:TimeoutError"


def test_coordinators_are_bounded_in_number(engine: Engine, folder: str, tmp_path: Any) -> None:
    (tmp_path / "traces").mkdir()
    bounded = Engine(engine.store.uri, pace=QUICK, bounds=Bounds(max_coordinators=2))
    run_id = bounded.start(graphs.coordinator_graph, {"folder": folder, "width": 6})
    assert bounded.drive(run_id).status == "succeeded"
    assert bounded.output(run_id) <= 2


def test_a_run_that_waits_for_a_person_parks_and_goes_on_after_the_decision(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.approval_graph, {"folder": folder})
    with pytest.raises(NotWaiting, match="no such approval is open yet"):
        engine.approve(run_id, "ship", by="ann")
    view = engine.drive(run_id)
    assert (view.status, view.wake_at) == ("parked", None)
    assert engine.due() == []
    (wait,) = view.waits
    with pytest.raises(SubjectMismatch):
        engine.approve(run_id, "ship", by="ann", subject="0" * 64)
    engine.approve(run_id, "ship", by="ann", subject=wait.subject)
    engine.approve(run_id, "ship", by="ann")
    with pytest.raises(NotWaiting, match="ann has approved it"):
        engine.approve(run_id, "ship", by="bob", approved=False)
    assert engine.due() == [run_id]
    assert [view.status for view in engine.resume_all()] == ["succeeded"]
    assert engine.output(run_id) == "approved"
    assert engine.output(run_id, "ship").by == "ann"


def test_an_approval_expires_as_a_recorded_outcome(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.approval_graph, {"folder": folder, "expires_s": 0.2})
    assert engine.drive(run_id).status == "succeeded"
    assert engine.output(run_id) == "expired"
    with pytest.raises(RunOver):
        engine.approve(run_id, "ship", by="ann")


def test_events_may_come_early_late_and_twice(engine: Engine, folder: str) -> None:
    early = engine.start(graphs.event_graph, {"folder": folder})
    assert engine.deliver(early, "data", {"rows": 3}, by="sensor") == "accepted"
    assert engine.deliver(early, "data", {"rows": 4}) == "duplicate"
    assert engine.drive(early).status == "succeeded"
    assert engine.output(early) == {"rows": 3}
    assert engine.deliver(early, "other") == "late"
    expiring = engine.start(graphs.event_graph, {"folder": folder, "timeout_s": 0.1})
    assert engine.drive(expiring).status == "succeeded"
    assert engine.output(expiring) == "expired"
    waiting = engine.start(graphs.event_graph, {"folder": folder})
    assert engine.drive(waiting).status == "parked"
    assert engine.deliver(waiting, "data", 5) == "accepted"
    assert engine.drive(waiting).status == "succeeded"


def test_a_short_sleep_is_waited_for_and_a_long_one_parks(engine: Engine, folder: str) -> None:
    short = engine.start(graphs.sleep_graph, {"folder": folder, "duration_s": 0.2})
    assert engine.drive(short).status == "succeeded"
    assert engine.output(short) == 2
    long = engine.start(graphs.sleep_graph, {"folder": folder, "duration_s": 3600})
    view = engine.drive(long)
    assert view.status == "parked"
    assert view.wake_at is not None
    assert 3500 < view.wake_at - view.updated_at <= 3600


def test_cancelling_stops_the_steps_in_flight(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.slow_graph, {"folder": folder})
    views: list[RunView] = []
    driver = threading.Thread(target=lambda: views.append(engine.drive(run_id)))
    driver.start()
    until(lambda: graphs.seen(folder, "slow"))
    engine.cancel(run_id, by="ann", reason="enough")
    driver.join(60)
    assert [view.status for view in views] == ["cancelled"]
    assert (views[0].reason, views[0].not_ended) == ("enough", ())
    assert graphs.seen(folder, "effect") == 0
    assert engine.cancel(run_id).status == "cancelled"
    assert engine.drive(run_id).status == "cancelled"


def test_cancelling_a_run_that_nobody_drives_ends_it_at_once(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.small, {"folder": folder})
    assert engine.cancel(run_id).status == "cancelled"
    done = engine.start(graphs.chain, {"folder": folder, "length": 1})
    engine.drive(done)
    with pytest.raises(RunOver, match="succeeded"):
        engine.cancel(done)


def test_progress_is_seen_while_the_step_runs(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.slow_graph, {"folder": folder})
    seen: list[RunView] = []
    driver = threading.Thread(target=lambda: engine.drive(run_id, observer=seen.append))
    driver.start()
    found = until(lambda: engine.view(run_id).step("slow").progress)
    assert (found.total, found.message, found.metrics) == (2, "working", {"runs": 1})
    assert engine.view(run_id).held
    until(lambda: any(view.step("slow").progress for view in seen))
    (Path(folder) / "go").touch()
    driver.join(60)
    assert seen[-1].status == "succeeded"
    assert not engine.view(run_id).held


def test_a_fork_takes_over_what_is_not_behind_its_step(engine: Engine, folder: str) -> None:
    parent = engine.start(graphs.small, {"folder": folder})
    engine.drive(parent)
    child = engine.fork(parent, "left")
    actions = {entry.step: entry.action for entry in engine.plan(child).entries}
    assert actions == {"one": "reused", "left": "will run", "right": "reused", "total": "will run"}
    view = engine.drive(child)
    assert view.status == "succeeded"
    assert (view.parent, view.step("one").origin) == (parent, parent)
    assert [graphs.seen(folder, name) for name in ("one", "left", "right", "total")] == [1, 2, 1, 2]
    with pytest.raises(StepNotFound, match="nowhere"):
        engine.fork(parent, "nowhere")


def test_a_fork_with_another_config_runs_again_what_the_config_changes(engine: Engine, folder: str) -> None:
    parent = engine.start(graphs.chain, {"folder": folder, "length": 3})
    engine.drive(parent)
    child = engine.fork(parent, "add3", {"folder": folder, "length": 5})
    assert engine.drive(child).status == "succeeded"
    assert engine.output(child) == 5
    assert graphs.seen(folder, "add2") == 1


def test_a_deleted_run_leaves_a_tombstone(engine: Engine, folder: str) -> None:
    run_id = engine.start(graphs.checkpoint_graph, {"folder": folder}, run_id="gone")
    engine.drive(run_id)
    engine.delete(run_id, by="ann")
    assert list(engine.store.list("runs/gone/steps")) == []
    assert engine.list() == []
    assert [summary.status for summary in engine.list(deleted=True)] == ["deleted"]
    with pytest.raises(NoOutput):
        engine.output(run_id)
    with pytest.raises(RunOver):
        engine.start(graphs.checkpoint_graph, {"folder": folder}, run_id="gone")
    with pytest.raises(RunNotFound):
        engine.view("never")


def test_a_corrupt_record_is_answered_by_a_run_of_those_before_it(engine: Engine, folder: str, tmp_path: Any) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 4})
    engine.drive(run_id)
    record = tmp_path / "storage" / "runs" / run_id / f"{5:020}.json"
    record.chmod(0o644)
    record.write_bytes(record.read_bytes()[:-20])
    assert engine.verify(run_id).first_bad == 5
    repaired = engine.repair(run_id)
    assert engine.drive(repaired).status == "succeeded"
    assert engine.output(repaired) == 4
    assert graphs.seen(folder, "add0") == 1
