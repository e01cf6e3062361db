"""Racing runners and outsiders: whatever the order, the history tells one consistent story."""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Engine, EngineError, NotWaiting, RunOver
from workflows.log import Fenced, Log, Record, Refused

ACTIONS = st.lists(
    st.sampled_from(
        ["claim-0", "claim-1", "work-0", "work-1", "write-0", "write-1", "write-0", "write-1", "work-0", "work-1",
         "approve", "reject", "deliver", "cancel", "later"]
    ),
    min_size=5,
    max_size=60,
)  # fmt: skip


def act(action: str, engine: Engine, run_id: str, runners: list[Simulated], clock: list[float]) -> None:
    verb, _, number = action.partition("-")
    if number:
        runner = runners[int(number)]
        if verb == "claim":
            runner.claim(now=clock[0])
        elif verb == "work":
            runner.work()
        elif runner.epoch:
            runner.write(now=clock[0])
    elif verb in {"approve", "reject"}:
        engine.approve(run_id, "ship", by="ann", approved=verb == "approve")
    elif verb == "deliver":
        engine.deliver(run_id, "data", 7)
    elif verb == "cancel":
        engine.cancel(run_id, by="bob")
    else:
        clock[0] += 40


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    actions=ACTIONS,
    builder=st.sampled_from([graphs.approval_graph, graphs.event_graph, graphs.small, graphs.loop_graph]),
)
def test_any_order_of_runners_and_outsiders_leaves_one_story(actions: list[str], builder: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(f"file://{folder}/storage")
        config = {"folder": f"{folder}/traces", "expires_s": 100, "timeout_s": 100, "rounds": 4}
        run_id = engine.start(builder, config)  # type: ignore[arg-type]  # any builder
        runners = [Simulated(engine, run_id), Simulated(engine, run_id)]
        clock = [engine.store.now()]
        for action in actions:
            with suppress(Refused, EngineError, AssertionError if action.startswith("claim") else Refused):
                act(action, engine, run_id, runners, clock)
        _check(engine, run_id)
        for _ in range(3):
            # Each wait that is still open runs out of its time.
            clock[0] += 1000
            with suppress(RunOver):
                last = Simulated(engine, run_id)
                last.claim(now=clock[0])
                last.finish(now=clock[0])
        _check(engine, run_id)
        assert engine.view(run_id).status in {"succeeded", "cancelled"}


def _check(engine: Engine, run_id: str) -> None:
    records = list(Log(engine.store, f"runs/{run_id}", engine._fold).records())
    assert engine.verify(run_id).ok
    results = Counter(step for record in records for step, _ in _results(record))
    assert all(count == 1 for count in results.values()), "a result was recorded twice"
    starts = [tuple(start) for record in records for start in record.data.get("started", ())]
    assert len(starts) == len(set(starts)), "an attempt was started twice"
    epoch = 0
    for record in records:
        if record.kind == "claimed":
            assert record.epoch == epoch + 1
            epoch = record.epoch
        elif record.kind == "advanced":
            assert record.epoch == epoch, "a replaced runner wrote"
    ends = [record.index for record in records if record.kind in {"succeeded", "cancelled"}]
    assert len(ends) <= 1
    if ends:
        assert ends[0] == len(records) - 1, "something was written after the end"
    decisions = [record for record in records if record.kind == "decided"]
    assert len({record.data["step"] for record in decisions}) == len(decisions)


def _results(record: Record) -> list[tuple[str, object]]:
    return [*record.data.get("done", ()), *record.data.get("ended_waits", ())]


def test_a_condemned_wait_is_not_revived_by_a_late_approval(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "storage"))
    run_id = engine.start(graphs.waits_only, {"subject": 1, "expires_s": 5})
    runner = Simulated(engine, run_id)
    runner.claim(now=engine.store.now())
    assert runner.finish(now=engine.store.now() + 6).status == "succeeded"
    with pytest.raises((NotWaiting, RunOver)):
        engine.approve(run_id, "ship", by="ann")
    assert engine.output(run_id).outcome == "expired"


def test_a_cancelled_run_is_not_completed_by_a_runner_that_had_finished_its_work(tmp_path: Path) -> None:
    engine = Engine(str(tmp_path / "storage"))
    run_id = engine.start(graphs.chain, {"folder": str(tmp_path / "t"), "length": 1})
    runner = Simulated(engine, run_id)
    runner.claim(now=0.0)
    runner.write()
    runner.work()
    other = Simulated(engine, run_id)
    other.claim(now=0.0)
    with pytest.raises(Fenced):
        runner.write()
