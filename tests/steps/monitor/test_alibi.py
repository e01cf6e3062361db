"""alibi-detect as the engine: really run where uv and the registry are there; what is missing is named."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from steps.common.alone import AloneContext
from steps.common.embedding import TextEmbedder
from steps.common.results import DatasetVersion, Release
from steps.monitor import MonitorConfig, alibi
from steps.monitor.alibi import AlibiDetector, AlibiFailed, AlibiMissing, AlibiWorker, find_uv
from steps.monitor.detectors import Point
from steps.monitor.scan import Scanner
from steps.monitor.step import watch

REPOSITORY = Path(__file__).resolve().parents[3]
WINDOW = 8


@pytest.fixture(scope="module")
def environment() -> None:
    """The environment of the worker, made if it can be."""
    uv = find_uv()
    if uv is None:
        pytest.skip("no uv: it makes the environment of alibi-detect")
    command = [uv, "sync", "--frozen", "--script", str(alibi.WORKER)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if made.returncode != 0:
        pytest.skip(f"no environment for alibi-detect: {made.stderr[-300:]}")


def draw(num: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(num, 3)) + shift).astype(np.float32)


@pytest.mark.alibi
@pytest.mark.parametrize("engine", ["alibi-cvm", "alibi-mmd"])
def test_finds_a_shift_and_goes_on_from_its_state(environment: None, engine: str) -> None:
    if engine == "alibi-mmd":
        pytest.importorskip("torch")
    config = MonitorConfig.model_validate({"engine": engine, "seed": 1})
    detector = AlibiDetector.fit(draw(100, 0), config, run_length=50, window=WINDOW)
    try:
        assert 5 <= detector.replay(draw(60, 1), 50, seed=2) <= 1000
        detector.restart(0)
        for point in draw(20, 3):
            detector.score(Point(point, point))
        state, after = detector.dump(), draw(2 * WINDOW, 4, shift=2.0)
        assert len(state["points"]) == WINDOW
        first = [detector.score(Point(point, point)) for point in after]
        assert first[-1] is not None
        assert first[-1] > detector.threshold()
        detector.load(state)
        np.testing.assert_allclose([detector.score(Point(point, point)) for point in after], first, rtol=1e-4)
        with pytest.raises(AlibiFailed, match="unknown kind"):
            detector._worker.ask("fit", 60, kind="tea", points="", num_features=1, run_length=1, window=1, seed=1)
    finally:
        detector.close()


@pytest.mark.alibi
def test_the_whole_step_and_a_scan_run_with_it(
    environment: None,
    tmp_path: Path,
    make_dataset: Callable[..., DatasetVersion],
    release: Release,
    send: Callable[..., None],
    embedder: TextEmbedder,
) -> None:
    ctx = AloneContext(f"file://{tmp_path}/store", step="monitor", scratch=tmp_path)
    config = MonitorConfig(engine="alibi-cvm", run_length=30, window=WINDOW, min_sessions=60, num_components=2)
    result = watch(config, make_dataset(ctx.blobs), release, ctx, embedder)
    assert set(result.detectors) == {"prompt_alibi_cvm", "scalars_ks"}
    assert result.measured_run_length > 0
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        send(ctx.store, "food", 0, 40)
        assert len(scanner.scan().raised) == 1


@pytest.mark.alibi
def test_the_worker_ends_when_its_parent_is_killed(environment: None) -> None:
    code = (
        "import sys, time; from steps.monitor.alibi import AlibiWorker; worker = AlibiWorker('alibi-cvm')\n"
        "print(worker._process.pid, flush=True); time.sleep(300)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert parent.stdout is not None
    try:
        uv = psutil.Process(int(parent.stdout.readline()))
        deadline = time.monotonic() + 120
        while not (workers := uv.children(recursive=True)):
            assert time.monotonic() < deadline, "uv has started nothing"
        parent.kill()
        _, alive = psutil.wait_procs([uv, *workers], timeout=120)
        assert not alive
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()


@pytest.mark.alibi
def test_an_environment_that_is_there_is_taken(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = find_uv()
    assert uv is not None
    command = [uv, "python", "find", "--script", str(alibi.WORKER)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    monkeypatch.setenv(alibi.PYTHON_ENV, found.stdout.strip())
    monkeypatch.setattr(alibi, "find_uv", lambda: None)
    config = MonitorConfig.model_validate({"engine": "alibi-cvm", "seed": 1})
    detector = AlibiDetector.fit(draw(100, 0), config, run_length=50, window=WINDOW)
    detector.close()
    assert detector.threshold() > 0


def test_an_environment_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(alibi.PYTHON_ENV, "/nowhere/python3")
    with pytest.raises(AlibiMissing, match="EVERLOOP_ALIBI_PYTHON=/nowhere/python3"):
        AlibiWorker("alibi-cvm")


def test_a_missing_uv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(alibi.PYTHON_ENV, raising=False)
    monkeypatch.setattr(alibi, "find_uv", lambda: None)
    with pytest.raises(AlibiMissing, match="'alibi-cvm' needs uv: install it"):
        AlibiWorker("alibi-cvm")


def test_a_worker_that_dies_says_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "uv"
    broken.write_text("#!/bin/sh\necho no solution found >&2\nexit 2\n")
    broken.chmod(0o755)
    monkeypatch.setattr(alibi, "find_uv", lambda: str(broken))
    worker = AlibiWorker("alibi-cvm")
    try:
        with pytest.raises(AlibiFailed, match="no solution found"):
            worker.ask("score", 60, point="")
    finally:
        worker.close()


def test_a_worker_that_does_not_answer_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deaf = tmp_path / "uv"
    deaf.write_text("#!/bin/sh\nexec sleep 300\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(alibi, "find_uv", lambda: str(deaf))
    worker = AlibiWorker("alibi-cvm")
    with pytest.raises(AlibiFailed, match=r"no answer in 0\.2 s"):
        worker.ask("score", 0.2, point="")
    assert worker._process.poll() is not None


def test_errors_pickle() -> None:
    for error in (AlibiMissing("alibi-mmd", "torch", "install it"), AlibiFailed("fit", "died")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
