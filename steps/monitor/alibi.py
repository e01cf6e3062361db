"""alibi-detect as the engine: a detector whose work is done by a process in an environment of its own.

alibi-detect 0.13 is under the Business Source License 1.1 and needs numpy < 2, so it is never imported here. Its
environment (0.8 GB without torch) is made by `uv` from `alibi_worker.py.lock` at the first use, and then cached; where
there is one already, as in a cluster, `EVERLOOP_ALIBI_PYTHON` names its interpreter.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from steps.monitor.config import MonitorConfig
from steps.monitor.detectors import Point, embedding_detector
from steps.monitor.streams import Floats

WORKER = Path(__file__).with_name("alibi_worker.py")

PYTHON_ENV = "EVERLOOP_ALIBI_PYTHON"
"""Interpreter of an environment that is there already; without it uv makes one."""

START_S = 900.0
"""The first start downloads the environment: 190 MB."""

FIT_S = 600.0
SCORE_S = 60.0

_REPLAY_RUNS = 20  # length of the replay, in promised run lengths
_MAX_REPLAY = 20_000  # steps of it; a step takes a third of a millisecond


# Errors:
#   AlibiError
#     AlibiMissing    what the engine needs is not there
#     AlibiFailed     the worker died, answered an error, or did not answer in time
class AlibiError(Exception):
    """The engine alibi-detect cannot be used."""


class AlibiMissing(AlibiError):
    """A program or package that the engine needs is not there."""

    def __init__(self, engine: str, what: str, remedy: str) -> None:
        super().__init__(f"engine {engine!r} needs {what}: {remedy}, or set engine to 'numpy'")
        self.engine, self.what, self.remedy = engine, what, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.engine, self.what, self.remedy)


class AlibiFailed(AlibiError):
    """The worker did not do what was asked."""

    def __init__(self, request: str, problem: str) -> None:
        super().__init__(f"alibi-detect: {request}: {problem}")
        self.request, self.problem = request, problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.request, self.problem)


def find_uv() -> str | None:
    """Finds uv: the one that runs us, the one on PATH, or the one that `make` has put into `.tools`."""
    private = WORKER.parents[2] / ".tools" / "bin" / "uv"
    return os.environ.get("UV") or shutil.which("uv") or (str(private) if private.exists() else None)


class AlibiWorker:
    """The process; ends with `close`, or by itself when this one does.

    Args:
        engine: `alibi-cvm` or `alibi-mmd`.

    Raises:
        AlibiMissing: uv is not there, or torch for `alibi-mmd`.
    """

    def __init__(self, engine: str) -> None:
        self.engine = engine
        command = _command(engine)
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")},
        )
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ask(self, op: str, timeout_s: float, **arguments: Any) -> Mapping[str, Any]:
        """Sends a request and waits for the answer.

        Raises:
            AlibiFailed: The worker died, answered an error, or did not answer in time.
        """
        assert self._process.stdin is not None, "stdin is a pipe"
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except BrokenPipeError:
            line = None
        except queue.Empty:
            self.close()
            raise AlibiFailed(op, f"no answer in {timeout_s:g} s") from None
        if line is None:
            raise AlibiFailed(op, f"the worker ended: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise AlibiFailed(op, answer["error"])
        result: Mapping[str, Any] = answer["ok"]
        return result

    def close(self) -> None:
        """Ends the process and what it has started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that nobody was there to read
                    pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None, "stdout is a pipe"
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-800:].strip() or "without a word"


def _interpreter(engine: str) -> list[str]:
    if ready := os.environ.get(PYTHON_ENV):
        if shutil.which(ready) is None:
            raise AlibiMissing(engine, f"{PYTHON_ENV}={ready}", "it must name a Python that has alibi-detect")
        return [ready]
    uv = find_uv()
    if uv is None:
        raise AlibiMissing(engine, "uv", f"install it (https://docs.astral.sh/uv), set {PYTHON_ENV}")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [uv, "run", "--quiet", "--no-project", "--frozen", "--python", python, "--script"]


def _command(engine: str) -> list[str]:
    command = [*_interpreter(engine), str(WORKER)]
    if engine != "alibi-mmd":
        return command
    found = find_spec("torch")
    if found is None or found.origin is None:
        raise AlibiMissing(engine, "torch", "install it in this environment, from which it is borrowed")
    return [*command, "--torch-from", str(Path(found.origin).parents[1])]


class AlibiDetector:
    """A detector of alibi-detect. What it has seen is the last window of points, so its state is constant in size."""

    def __init__(self, worker: AlibiWorker, window: int, threshold: float) -> None:
        self.name = embedding_detector(worker.engine)
        self.num_confirm = window
        self.confirm = threshold
        self._worker = worker
        self._threshold = threshold
        self._recent: list[Floats] = []
        self._num_seen = 0

    @classmethod
    def fit(cls, points: Floats, config: MonitorConfig, *, run_length: float, window: int) -> AlibiDetector:
        """Starts a worker and fits it; the same points and seed give the same detector.

        Raises:
            AlibiError: It cannot be used here.
        """
        worker = AlibiWorker(config.engine)
        kind = config.engine.removeprefix("alibi-")
        arguments = {"kind": kind, "num_features": points.shape[1], "run_length": run_length, "window": window}
        try:
            fitted = worker.ask("fit", START_S + FIT_S, points=_pack(points), seed=config.seed, **arguments)
        except AlibiFailed:
            worker.close()
            raise
        return cls(worker, window, float(fitted["threshold"]))

    def replay(self, held_back: Floats, run_length: float, seed: int) -> float:
        """Measures the run length on held-back sessions; without an alarm it is a lower bound."""
        num_steps = int(min(_REPLAY_RUNS * run_length, _MAX_REPLAY))
        size = held_back.shape[1]
        counted = self._worker.ask("replay", FIT_S, points=_pack(held_back), size=size, num_steps=num_steps, seed=seed)
        return float(counted["num_steps"]) / max(float(counted["num_alarms"]), 1.0)

    def score(self, point: Point) -> float | None:
        answer = self._worker.ask("score", SCORE_S, point=_pack(point.features))
        self._recent = [*self._recent, point.features][-self.num_confirm :]
        self._num_seen += 1
        self._threshold = float(answer["threshold"])
        return float(answer["statistic"])

    def threshold(self) -> float:
        return self._threshold

    def restart(self, seed: int) -> None:  # noqa: ARG002 - alibi-detect starts from the window that it drew when fitted
        self._restore([], 0)

    def dump(self) -> Any:
        return {"points": [_pack(point) for point in self._recent], "num_seen": self._num_seen}

    def load(self, state: Any) -> None:
        points = [np.frombuffer(base64.b64decode(text), "<f4").copy() for text in state["points"]]
        self._restore(points, state["num_seen"])

    def detail(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        self._worker.close()

    def _restore(self, points: list[Floats], num_seen: int) -> None:
        self._recent, self._num_seen = points, num_seen
        packed = _pack(np.stack(points)) if points else ""
        size = len(points[0]) if points else 1
        self._worker.ask("load", SCORE_S, points=packed, num_seen=num_seen, size=size)


def _pack(values: Floats) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()
