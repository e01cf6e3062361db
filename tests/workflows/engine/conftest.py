"""Surroundings of the engine's tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workflows.engine import Engine, Pace

REPOSITORY = Path(__file__).resolve().parents[3]
QUICK = Pace(poll_s=0.02, grace_s=1.0, ttl_s=3.0)


def until(condition: Callable[[], Any], *, within_s: float = 90.0) -> Any:
    """Waits for a condition, and gives what made it true."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s:g} s")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where steps leave their traces."""
    return str(tmp_path / "traces")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """An engine on an empty folder."""
    return Engine(f"file://{tmp_path}/storage", pace=QUICK)


@pytest.fixture
def runner(ray_head: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `python -m tests.workflows.engine.drive STORAGE RUN_ID` on the session's Ray, in a process that can be
    killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(storage: str, run_id: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.workflows.engine.drive", storage, run_id, *options],
            cwd=REPOSITORY,
            env={**os.environ, "RAY_ADDRESS": ray_head, "RAY_AUTH_MODE": "disabled", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
