"""Which runs are due, asked again and again: what did not change costs one read, what changed is seen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Engine
from workflows.engine.due import DueRuns
from workflows.engine.state import RunFold
from workflows.log import Draft, Log
from workflows.log.file_store import FileStore
from workflows.metrics import RESTING_AGAIN_S, RunWatch


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(f"file://{tmp_path}/storage")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Requests to any folder, by kind."""
    counts: Counter[str] = Counter()

    def count(name: str) -> Callable[..., Any]:
        asks: Any = getattr(FileStore, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return asks(*arguments, **options)

        return counted

    for name in ("create", "put", "get", "head", "list", "folders", "delete"):
        monkeypatch.setattr(FileStore, name, count(name))
    return counts


def made(engine: Engine, tmp_path: Path, status: str) -> str:
    run_id = engine.start(graphs.small, {"folder": str(tmp_path)})
    if status == "pending":
        return run_id
    if status == "cancelled":
        engine.cancel(run_id)
        return run_id
    runner = Simulated(engine, run_id)
    runner.claim(now=time.time())
    if status == "succeeded":
        runner.finish(now=time.time())
    elif status != "running":
        log = Log(engine.store, f"runs/{run_id}", RunFold(engine.blobs))
        draft = Draft(status, {"at": time.time(), "reason": "", "step": ""}, epoch=log.state.epoch)
        log.append(lambda _: draft)
    return run_id


def copied(engine: Engine, run_id: str, name: str) -> None:
    """The same journal under another name: to start fifty runs takes a while."""
    for info in list(engine.store.list(f"runs/{run_id}")):
        engine.store.put(info.key.replace(run_id, name), engine.store.get(info.key))


def test_the_same_runs_are_due_as_when_each_is_read_anew(engine: Engine, tmp_path: Path) -> None:
    runs = {status: made(engine, tmp_path, status) for status in ("pending", "running", "succeeded", "failed")}
    looked = DueRuns(engine)
    assert looked.look(runs.values()) == [runs["pending"]]
    assert engine.due() == [runs["pending"]]
    assert looked.look(runs.values(), include_failed=True) == [runs["pending"], runs["failed"]]
    engine.cancel(runs["pending"])
    assert looked.look(runs.values()) == []
    engine.store.delete(f"runs/{runs['running']}/live/{1:08}")
    silent = DueRuns(Engine(engine.store.uri))
    silent._runs.pace = replace(silent._runs.pace, ttl_s=0.0)
    assert silent.look([runs["running"]]) == [runs["running"]]


def test_a_run_that_did_not_change_costs_one_read(engine: Engine, tmp_path: Path, asked: Counter[str]) -> None:
    runs = [made(engine, tmp_path, "pending") for _ in range(5)]
    looked = DueRuns(engine)
    looked.look(runs)
    asked.clear()
    assert looked.look(runs) == runs
    assert asked == {"get": 5}


def test_a_torn_run_and_a_folder_without_one_keep_no_other_from_its_turn(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn, whole = made(engine, tmp_path, "pending"), made(engine, tmp_path, "pending")
    engine.store.put(f"runs/{torn}/{1:020}.json", b"torn")
    engine.store.put("runs/no-run/steps/x", b"")
    assert DueRuns(engine).look([torn, "no-run", whole]) == [whole]
    assert torn in caplog.text


def test_a_round_over_fifty_ended_runs_is_a_listing(
    engine: Engine, tmp_path: Path, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"succeeded": 20, "cancelled": 10, "failed": 10, "dead": 10}
    for status, number in numbers.items():
        run_id = made(engine, tmp_path, status)
        for copy in range(1, number):
            copied(engine, run_id, f"{run_id}-{copy:02}")
    watch, looked = RunWatch(engine.store), DueRuns(engine)
    assert Counter(line.status for line in watch.refresh().values()) == numbers
    asked.clear()
    watch.refresh()
    assert looked.look(watch.unfinished) == []
    assert asked == {"folders": 1}
    # What has failed is asked after now and then, ever less often: somebody may resume it.
    failed = next(run_id for run_id, line in watch.refresh().items() if line.status == "failed")
    late = time.monotonic() + RESTING_AGAIN_S + 1
    monkeypatch.setattr("workflows.metrics.time.monotonic", lambda: late)
    Simulated(engine, failed).claim(now=time.time())
    asked.clear()
    assert watch.refresh()[failed].status == "running"
    assert (asked["folders"], asked["get"]) == (1, 20 + 1)
    assert watch.unfinished == [failed]
    asked.clear()
    watch.refresh()
    assert asked == {"folders": 1, "get": 1}
