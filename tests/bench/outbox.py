"""How much the outbox and the metrics page cost where nothing happens, and how fast a burst goes out.

    python -m tests.bench.outbox [--runs 10000] [--burst 500]

The journals of finished runs are written straight into a folder, without fsync: only their reading is measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.parts.sink import accepting, post_notices
from workflows.engine import Engine
from workflows.engine.telling import RunTeller
from workflows.log import Draft, Notification, Store, open_store
from workflows.log.record import FIRST, Record, digest, record_key, seal
from workflows.metrics import LoopCollector
from workflows.outbox import Dispatcher, open_outbox

KINDS = ("created", "claimed", *(["advanced"] * 7), "succeeded")
NOTE = Notification(event="run.succeeded", severity="info", title="done", text="It is done.", alias="demo").to_json()
DAYS_AGO_S = 2 * 86_400


def main() -> None:
    """Prints a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=10_000)
    arguments.add_argument("--burst", type=int, default=500)
    given = arguments.parse_args()
    with accepting() as receiver, tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        _write_runs(store, Path(folder), given.runs)
        print(f"{given.runs} finished runs of {len(KINDS)} records", flush=True)
        dispatcher = Dispatcher(store, [receiver])
        _timed("outbox: the first look at an old storage", dispatcher.round)
        for _ in range(3):
            _timed("outbox: a round in which nothing happens", dispatcher.round)
        restarted = Dispatcher(store, [receiver])
        _timed("outbox: the first round after a restart", restarted.round)
        collector = LoopCollector(store)
        _timed("metrics: the first page", lambda: list(collector.collect()))
        _timed("reconciler: runs that are not over", collector.unfinished_runs)
        _timed("engine: ids of all runs", Engine(folder).run_ids)
        post_notices(store, given.burst)
        began = time.perf_counter()
        while open_outbox(store).refresh().num_outcomes.get(("sink", "delivered"), 0) < given.burst:
            dispatcher.round()
            dispatcher.wait()
        seconds = time.perf_counter() - began
        print(f"{'outbox: a burst, found, claimed, sent, receipted':<52} {given.burst / seconds:8.0f} events/s")
        _hot_path(Engine(folder))


def _write_runs(store: Store, folder: Path, count: int) -> None:
    at = time.time() - DAYS_AGO_S
    for number in range(count):
        name, previous = f"runs/run-{number:06}", FIRST
        (folder / name).mkdir(parents=True)
        for index, kind in enumerate(KINDS):
            data: dict[str, Any] = {"at": at, "done": [["step", "x" * 200]]}
            if index == 0:
                data |= {"run_id": f"run-{number:06}", "labels": {"alias": "demo"}}
            notify = (NOTE,) if kind == "succeeded" else ()
            record = Record(index, kind, data, f"{number:016x}{index:016x}", "bench", 1, at, previous, notify)
            sealed = seal(name, record)
            previous = digest(sealed)
            path = folder / record_key(name, index)
            path.write_bytes(sealed)
            os.utime(path, (at, at))


def _hot_path(engine: Engine) -> None:
    teller = RunTeller("r", engine._fold)
    draft = Draft("advanced", {"done": [["a", 1]], "started": [["b", 1]], "at": 1.0})
    state = engine._fold.initial()
    began = time.perf_counter()
    for _ in range(200_000):
        teller(state, draft)
    microseconds = (time.perf_counter() - began) / 200_000 * 1e6
    print(f"{'engine: asked of each record of a step':<52} {microseconds:8.2f} us")


def _timed(what: str, work: Callable[[], Any]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    print(f"{what:<52} {time.perf_counter() - wall:8.3f} s wall {time.process_time() - cpu:8.3f} s CPU", flush=True)


if __name__ == "__main__":
    main()
