from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.workflows.log import crashing_writer
from tests.workflows.log.counting import Ledger, move
from workflows.log import FailpointHit, Log, StoreFull, failpoint, failpoint_names, open_store
from workflows.log.failpoints import ENV, FILE_ENV

REPOSITORY = Path(__file__).resolve().parents[3]
SPACE_POINTS = {
    "file": ["file.write.before-fsync", "file.create.before-flush"],
    "s3": ["s3.create.before-request", "s3.create.after-request"],
}


def points_of(storage: str) -> list[str]:
    """The failpoints that a process on this storage passes."""
    other = "s3." if storage.startswith("file:") else "file."
    return [name for name in failpoint_names() if not name.startswith(other)]


def run_writer(storage: str, folder: Path, armed: str = "") -> int:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "tests.workflows.log.crashing_writer", storage, str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, ENV: armed},
        timeout=120,
        check=False,
    ).returncode


def test_an_inert_failpoint_does_nothing() -> None:
    failpoint("test.nothing")


def test_an_armed_failpoint_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, "test.raise=raise, test.other=kill")

    with pytest.raises(FailpointHit, match=r"test\.raise"):
        failpoint("test.raise")
    failpoint("test.nothing")


def test_the_n_th_pass_can_be_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, "test.third@3=enospc")
    failpoint("test.third")
    failpoint("test.third")

    with pytest.raises(OSError, match="No space left") as caught:
        failpoint("test.third")
    failpoint("test.third")

    assert caught.value.errno == errno.ENOSPC


def test_a_running_process_is_armed_and_released_by_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "armed"
    monkeypatch.setenv(FILE_ENV, str(file))
    failpoint("test.hang")
    file.write_text("test.hang=hang\n")
    passed = threading.Event()

    thread = threading.Thread(target=lambda: (failpoint("test.hang"), passed.set()))
    thread.start()
    assert not passed.wait(0.1)
    file.write_text("")
    thread.join(60)

    assert passed.is_set()


@pytest.mark.parametrize("spec", ["a", "a=explode", "a@x=kill"])
def test_a_spec_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.setenv(ENV, spec)

    with pytest.raises(ValueError, match=ENV):
        failpoint("anything")


def test_all_places_in_the_source_are_listed() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "workflows" / "log").glob("*.py"))
    names = failpoint_names()

    assert len(names) >= 15
    assert all(f'failpoint("{name}")' in source for name in names)
    assert source.count('failpoint("') == len(names), "two places share a name"
    assert failpoint_names("workflows.log") == names
    assert set(failpoint_names("workflows")) >= set(names)


def test_inert_failpoints_are_nearly_free() -> None:
    started = time.perf_counter()
    for _ in range(10_000):
        failpoint("test.nothing")

    assert (time.perf_counter() - started) / 10_000 < 50e-6  # About 1.5 us on a quiet machine.


def test_a_full_disk_is_a_clear_error_and_the_log_goes_on_after_it(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(open_store(storage), "l", Ledger())
    log.append(move("first", 1))
    for number, name in enumerate(SPACE_POINTS[storage.partition(":")[0]]):
        with monkeypatch.context() as full:
            full.setenv(ENV, f"{name}=enospc")
            if name.endswith(("before-fsync", "before-request")):
                with pytest.raises(StoreFull):
                    log.append(move(f"op-{number}", 1))
            else:
                # Said after the record stood in its slot: the writer finds it there.
                assert log.append(move(f"op-{number}", 1)) is not None
        log.append(move(f"op-{number}", 1))

    assert log.state.operations == ("first", "op-0", "op-1")
    assert log.verify().ok


def test_the_crashing_writer_passes_every_failpoint(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash matrix below proves nothing about a place that its writer never passes."""
    passed: set[str] = set()
    monkeypatch.setenv(ENV, "test.recorded=hang")
    monkeypatch.setattr("workflows.log.failpoints._pass", passed.add)
    monkeypatch.setattr("workflows.log.log.EVERY", 2)
    (tmp_path / "files").mkdir()

    crashing_writer.main(storage, tmp_path / "files")
    crashing_writer.check(storage)

    assert sorted(passed) == points_of(storage)


def test_a_writer_that_dies_at_a_failpoint_is_followed_by_one_that_goes_on(storage: str, tmp_path: Path) -> None:
    """A sample of the matrix below: between the write of a record and its acknowledgement."""
    assert run_writer(storage, tmp_path / "files", "log.append.after-create@3=kill") == -signal.SIGKILL
    assert run_writer(storage, tmp_path / "files") == 0
    crashing_writer.check(storage)


@pytest.mark.chaos
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(
    ("storage", "name"),
    [(kind, name) for kind in ("file", "s3") for name in points_of(f"{kind}:")],
    indirect=["storage"],
)
def test_kill_9_at_every_failpoint_loses_and_doubles_nothing(storage: str, name: str, nth: int, tmp_path: Path) -> None:
    died = run_writer(storage, tmp_path / "files", f"{name}@{nth}=kill")
    assert died == -signal.SIGKILL or (nth > 1 and died == 0)  # Some places are passed once.
    assert run_writer(storage, tmp_path / "files") == 0
    crashing_writer.check(storage)
