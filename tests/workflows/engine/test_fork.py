"""What runs made of other runs share with them outlives the garbage collection of either."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from workflows.engine import Engine
from workflows.engine.fork import keep_shared, mend
from workflows.log import BlobRef, Draft, Log, NotFound, collect_garbage, encode
from workflows.log.log import Fold

HOUR_S = 3600.0


class _Count(Fold[int]):
    def initial(self) -> int:
        return 0

    def apply(self, state: int, record: object) -> int:
        return state + 1

    def dump(self, state: int) -> int:
        return state

    def load(self, data: int) -> int:
        return data


def make_old(engine: Engine, folder: Path, ref: BlobRef, hours: float) -> None:
    at = time.time() - hours * HOUR_S
    os.utime(folder / "storage" / engine.blobs.key(ref.sha256), (at, at))


def test_a_fork_renews_the_results_that_it_takes_over(engine: Engine, tmp_path: Path) -> None:
    result = engine.blobs.put(b"x" * 100_000)
    make_old(engine, tmp_path, result, 23.9)

    keep_shared({"train": {"result": encode(result, engine.blobs), "run": "parent"}}, engine.blobs)

    found = engine.store.head(engine.blobs.key(result.sha256))
    assert found is not None
    assert engine.store.now() - found.modified_at < HOUR_S
    assert collect_garbage(engine.blobs, []).deleted == ()


def test_a_fork_of_results_that_are_gone_is_refused_by_name(engine: Engine) -> None:
    result = engine.blobs.put(b"x")
    engine.store.delete(engine.blobs.key(result.sha256))

    with pytest.raises(NotFound, match=result.sha256):
        keep_shared({"train": {"result": encode(result, engine.blobs)}}, engine.blobs)


def test_a_mended_run_renews_what_its_records_name(engine: Engine, tmp_path: Path) -> None:
    result = engine.blobs.put(b"y" * 100_000)
    log = Log(engine.store, "runs/torn", _Count())
    for _ in range(3):
        log.append(lambda state: Draft("noted", {"result": encode(result, engine.blobs)}))
    record = tmp_path / "storage" / "runs" / "torn" / f"{2:020}.json"
    record.chmod(0o644)
    record.write_bytes(b"{")
    make_old(engine, tmp_path, result, 30)

    mend(engine.blobs, "torn", "mended", engine.verify("torn"))

    assert Log(engine.store, "runs/mended", _Count()).state == 2
    assert collect_garbage(engine.blobs, []).deleted == ()
