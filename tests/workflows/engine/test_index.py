"""Runs as lines, looked at again and again: what is over is not read a second time, and what changes is seen."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Engine, RunNotFound, RunSummary
from workflows.engine import index as index_module
from workflows.engine.index import RunIndex


class Counted:
    """A store that counts what is asked of it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        return getattr(self._store, name)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(str(tmp_path / "runs"))


def made(engine: Engine, *, ends: bool) -> str:
    """A run of one step, to its end or only begun."""
    run_id = engine.start(graphs.chain, {"folder": engine.store.uri.removeprefix("file://"), "length": 1})
    if ends:
        runner = Simulated(engine, run_id)
        runner.claim()
        assert runner.finish().status == "succeeded"
    return run_id


def lines(found: list[RunSummary]) -> list[RunSummary]:
    return sorted(found, key=lambda summary: summary.run_id)


def test_the_lines_are_those_that_reading_every_journal_gives(engine: Engine) -> None:
    for ends in (True, False, True):
        made(engine, ends=ends)
    cancelled = made(engine, ends=False)
    engine.cancel(cancelled, reason="no need")
    index = RunIndex(engine)
    assert index.list() == lines(engine.list())
    assert index.list() == lines(engine.list())
    assert {summary.status for summary in index.list()} == {"succeeded", "pending", "cancelled"}


def test_what_goes_on_is_seen_at_the_next_look(engine: Engine) -> None:
    run_id = made(engine, ends=False)
    index = RunIndex(engine)
    assert [summary.status for summary in index.list()] == ["pending"]
    runner = Simulated(engine, run_id)
    runner.claim()
    assert [summary.status for summary in index.list()] == ["running"]
    runner.finish()
    assert [summary.status for summary in index.list()] == ["succeeded"]
    assert index.view(run_id) == engine.view(run_id)
    made(engine, ends=True)
    assert index.list() == lines(engine.list())


def test_a_run_that_is_over_costs_no_read_however_often_it_is_looked_at(engine: Engine) -> None:
    for _ in range(5):
        made(engine, ends=True)
    open_one = made(engine, ends=False)
    index = RunIndex(engine)
    index.list()
    counted = Counted(engine.store)
    index._store = counted  # type: ignore[assignment]
    for _ in range(10):
        index.list()
    assert counted.asked == {"folders": 10}
    assert open_one in index._open


def test_a_buried_run_is_gone_once_it_is_asked_after(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, buried = made(engine, ends=True), made(engine, ends=True)
    index = RunIndex(engine)
    assert len(index.list()) == 2
    assert index.view(buried).status == "succeeded"
    engine.delete(buried)
    assert index.view(buried).status == "deleted"
    monkeypatch.setattr(index_module, "RECHECK_S", 0.0)
    assert [summary.run_id for summary in index.list()] == [kept]


def test_a_view_of_a_run_that_is_over_is_read_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = made(engine, ends=True)
    index = RunIndex(engine)
    index.list()
    first = index.view(run_id)
    assert first == engine.view(run_id)
    monkeypatch.setattr(engine, "view", lambda _: pytest.fail("read again"))
    assert index.view(run_id) is first
    with pytest.raises(RunNotFound):
        RunIndex(Engine(engine.store.uri)).view("nobody")


def test_a_torn_journal_hides_no_other_run(engine: Engine) -> None:
    torn, whole = made(engine, ends=True), made(engine, ends=False)
    key = f"runs/{torn}/{1:020d}.json"
    engine.store.put(key, engine.store.get(key)[:-20])
    found = {summary.run_id: summary.status for summary in RunIndex(engine).list()}
    assert found[whole] == "pending"
    assert set(found) <= {torn, whole}


def test_threads_that_look_at_once_see_the_same(engine: Engine) -> None:
    for ends in (True, False, True, False):
        made(engine, ends=ends)
    index, found = RunIndex(engine), []
    threads = [threading.Thread(target=lambda: found.append(index.list())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [lines(engine.list())] * 8


def test_a_beginning_is_what_the_whole_journal_says(engine: Engine) -> None:
    parent = made(engine, ends=True)
    child = engine.fork(parent, engine.view(parent).steps[0].name, cause={"why": "test"})
    begun = engine.beginning(child)
    view = engine.view(child)
    assert (begun.cause, begun.parent, begun.created_at) == ({"why": "test"}, parent, view.created_at)
    assert begun.config["length"] == 1
    with pytest.raises(RunNotFound):
        engine.beginning("nobody")
