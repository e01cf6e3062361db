"""Processes are known by pid, start time and mark: ours are found and ended, nobody else's are."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workflows.engine.processes import end
from workflows.services import process

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)
PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).wait()"


def test_a_session_is_found_without_its_mark(tmp_path: Path) -> None:
    leader = subprocess.Popen([sys.executable, "-c", PARENT], env={}, start_new_session=True)
    try:
        until(lambda: len(process.session_of(leader.pid)) == 2)
        assert leader.pid in process.session_of(leader.pid)
        assert os.getpid() not in process.session_of(leader.pid)
    finally:
        end(process.session_of(leader.pid), 0.1)
        leader.wait()
    assert process.session_of(leader.pid) == {}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "service"
    end(process.members(tmp_path / "service"), 0.1)


def begin(folder: Path, command: list[str]) -> process.Started:
    return process.start(command, dict(os.environ), folder, cwd=folder.parent)


def until(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_is_found_again_and_ended(folder: Path) -> None:
    started = begin(folder, SLEEP)

    assert process.recorded(folder) == started
    assert started.alive()
    assert process.members(folder) == {started.pid: started.started}
    assert process.memory_bytes([started.pid]) > 2**20
    assert process.stop(folder, 10)
    assert not started.alive()
    assert process.recorded(folder) is None
    assert not process.stop(folder, 10)


def test_children_that_outlive_their_parent_are_ended_too(folder: Path) -> None:
    started = begin(folder, [sys.executable, "-c", PARENT])
    until(lambda: len(process.members(folder)) == 2)
    os.kill(started.pid, signal.SIGKILL)
    until(lambda: not started.alive())
    (child,) = process.members(folder)

    assert process.stop(folder, 10)
    assert not Path(f"/proc/{child}/exe").exists()


def test_one_that_does_not_heed_is_killed(folder: Path) -> None:
    started = begin(folder, [sys.executable, "-c", STUBBORN])
    until(lambda: process.log_tail(folder) == "on")

    assert process.stop(folder, 0.2)
    assert not started.alive()


def test_a_stranger_with_a_recorded_pid_is_left_alone(folder: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        folder.mkdir()
        (folder / "pid").write_text(json.dumps({"pid": stranger.pid, "started": 1, "at": 0.0, "digest": ""}))

        assert not process.stop(folder, 0.2)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_damaged_record_is_none(folder: Path) -> None:
    folder.mkdir()
    (folder / "pid").write_text("{")

    assert process.recorded(folder) is None


def test_the_holder_of_a_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert process.port_holder(port) == os.getpid()
        assert str(os.getpid()) in process.describe(os.getpid())
    assert process.port_holder(port) is None
