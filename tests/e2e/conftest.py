"""The whole loop as a person runs it: commands in processes of their own, one warm Ray for all tests of a session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.team_round import TeamRound, team_round
from workflows.engine import Engine

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 600.0


@dataclass(frozen=True)
class Loop:
    """A storage, and the commands on it."""

    storage: str
    state: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "EVERLOOP_STATE": str(self.state), "PYTHONUNBUFFERED": "1"}

    @property
    def engine(self) -> Engine:
        return Engine(self.storage, state=self.state)

    def spawn(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--storage", self.storage],
            cwd=REPOSITORY,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, module: str, *arguments: str, expect: int = 0) -> str:
        process = self.spawn(module, *arguments)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == expect, f"{module} {arguments} ended with {process.returncode}:\n{err[-4000:]}"
        return out

    def run(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """`python -m workflows.run ... --json`, as its last line says."""
        lines = self.call("workflows.run", *arguments, "--json", expect=expect).strip().splitlines()
        return dict(json.loads(lines[-1]))

    def kill_when(self, process: subprocess.Popen[str], run_id: str, met: Callable[[Any], bool]) -> None:
        """Waits until the run's view meets the condition, then ends the runner with -9."""
        self.wait(lambda: self._meets(run_id, met), f"run {run_id} to get there", process)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)

    def wait(self, met: Callable[[], bool], what: str, process: subprocess.Popen[str] | None = None) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not met():
            if process is not None and process.poll() is not None:
                pytest.fail(
                    f"the runner ended with {process.returncode} before {what}: {process.communicate()[1][-4000:]}"
                )
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not in {DEADLINE_S:.0f} s")
            time.sleep(0.1)

    def _meets(self, run_id: str, met: Callable[[Any], bool]) -> bool:
        try:
            return met(self.engine.view(run_id))
        except LookupError:
            return False
        except Exception as error:
            if type(error).__name__ == "RunNotFound":
                return False
            raise

    def complete(self, endpoint: str, alias: str, prompt: str = "The", session: str = "s") -> dict[str, Any]:
        body = json.dumps({"model": alias, "prompt": prompt, "max_tokens": 8}).encode()
        request = urllib.request.Request(
            f"{endpoint}/v1/completions", body, {"Content-Type": "application/json", "x-session-id": session}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of one Ray head for all tests; the head is stopped at the end."""
    folder = tmp_path_factory.mktemp("state")
    yield folder
    subprocess.run(
        [sys.executable, "-m", "workflows.run", "--down"],
        cwd=REPOSITORY,
        env={**os.environ, "EVERLOOP_STATE": str(folder)},
        check=True,
        timeout=120,
    )


@pytest.fixture(scope="session")
def new_loop(tmp_path_factory: pytest.TempPathFactory, state: Path) -> Callable[[], Loop]:
    """Makes loops in storages of their own on the one head."""
    return lambda: Loop(f"file://{tmp_path_factory.mktemp('loop')}/storage", state)


@pytest.fixture(scope="module")
def released(new_loop: Callable[[], Loop]) -> tuple[Loop, dict[str, Any]]:
    """A loop that has gone round once, and what its first run said."""
    made = new_loop()
    return made, made.run("--recipe", "nano")


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamRound]:
    """A team's round on MinIO, gone once for all tests that look at it."""
    with team_round(tmp_path_factory.mktemp("team")) as made:
        yield made
