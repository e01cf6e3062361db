"""A killed worker of LocalExecutor takes the lock of its queue along: the scheduler must not go on as if well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("airflow.sdk", reason="runs in Airflow's environment, by tests/services/test_airflow_units.py")

PLUGINS = Path(__file__).resolve().parents[2] / "airflow" / "plugins"
PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {plugins!r})
from everloop.executor import FailFastLocalExecutor
executor = FailFastLocalExecutor(parallelism=2)
executor.start()
workers = sorted(executor.workers)
executor.sync()
print("said: before", flush=True)
if {kill}:
    os.kill(workers[0], signal.SIGKILL)
    executor.workers[workers[0]].join()
executor.sync()
print("said: after with", len(executor.workers), flush=True)
executor.end()
"""


def run(tmp_path: Path, *, kill: bool) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(plugins=str(PLUGINS), kill=kill)
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the program says between Airflow's own lines."""
    return [line.removeprefix("said: ") for line in done.stdout.splitlines() if line.startswith("said: ")]


def test_a_killed_worker_ends_the_scheduler_with_all_its_workers(tmp_path: Path) -> None:
    done = run(tmp_path, kill=True)
    assert done.returncode == 70, done.stderr
    assert said(done) == ["before"]


def test_one_whose_workers_live_goes_on_and_ends_well(tmp_path: Path) -> None:
    done = run(tmp_path, kill=False)
    assert done.returncode == 0, done.stderr
    assert said(done) == ["before", "after with 2"]
