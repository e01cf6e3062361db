from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from steps.scrape.guard import guarded

# A child that leaves its session, and a grandchild whose parent ends at once: what a process group does not hold
# together.
FAMILY = textwrap.dedent(
    """
    import os, subprocess, sys, time
    for _ in range(2):
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "import os, time; os.setsid(); os.fork(); time.sleep(600)"])
    subprocess.Popen([sys.executable, "-I", "-S", "-c", f"import os, time; os.fork() and os._exit(0); time.sleep(600)"])
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(600)
    """
)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def family(guard: psutil.Process) -> list[psutil.Process]:
    return guard.children(recursive=True)


def start(tmp_path: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    command = guarded([sys.executable, "-I", "-S", "-c", FAMILY, str(tmp_path / "ready")])
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    guard = psutil.Process(process.pid)
    wait_until(lambda: (tmp_path / "ready").exists() and len(family(guard)) >= 6)
    return process, family(guard)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_closing_the_input_kills_all_descendants(tmp_path: Path) -> None:
    process, members = start(tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    wait_until(lambda: all(map(is_gone, members)))


def test_kill_9_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys, time; from steps.scrape.guard import guarded;"
        "p = subprocess.Popen(guarded(sys.argv[1:]), stdin=subprocess.PIPE); print(p.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", source, sys.executable, "-I", "-S", "-c", FAMILY, str(tmp_path / "ready")]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert owner.stdout is not None
    guard = psutil.Process(int(owner.stdout.readline()))
    wait_until(lambda: (tmp_path / "ready").exists() and len(family(guard)) >= 6)
    members = [guard, *family(guard)]
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: all(map(is_gone, members)))


def test_a_command_that_ends_by_itself_gives_its_exit_code() -> None:
    process = subprocess.Popen(guarded([sys.executable, "-c", "raise SystemExit(7)"]), stdin=subprocess.PIPE)
    assert process.wait(timeout=60) == 7
    assert process.stdin is not None
    process.stdin.close()
