"""The crash matrix: at every failpoint of log and engine, kill -9 of the runner, on both storages.

A runner drives a small graph in a process of its own and dies at the armed place; then another one drives the run on.
Whatever the place: nothing recorded is lost, nothing recorded runs twice, and the result is the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.workflows.engine import graphs
from workflows.engine import Engine, Pace
from workflows.log import Log, failpoint_names

REPOSITORY = Path(__file__).resolve().parents[2]
PACE = Pace(poll_s=0.02, grace_s=1.0, ttl_s=3.0)
PLACES = [
    name for name in failpoint_names("workflows.log", "workflows.engine") if not name.startswith("engine.worker.")
]
SLICE = [
    "engine.drive.after-claim",
    "engine.runner.after-submit",
    "log.append.before-create",
    "log.append.after-create",
]
EXPECTED = {"small": 13, "loop_graph": 7}


def drive(storage: str, run_id: str, ray_head: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.workflows.engine.drive", storage, run_id],
        cwd=REPOSITORY,
        env={**os.environ, "RAY_ADDRESS": ray_head, "RAY_AUTH_MODE": "disabled", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def check(storage: str, ray_head: str, folder: Path, place: str, builder: str) -> bool:
    """Drives a run into the failpoint and on from there; whether the place was passed at all."""
    engine = Engine(storage, pace=PACE)
    config = {"folder": str(folder), "rounds": 3}
    run_id = engine.start(getattr(graphs, builder), config)
    killed = drive(storage, run_id, ray_head, EVERLOOP_FAILPOINT=f"{place}=kill")
    recorded = {step.name for step in engine.view(run_id).steps if step.status == "succeeded"}
    before = Counter(path.name.partition(".")[0] for path in folder.iterdir()) if folder.exists() else Counter()
    view = engine.drive(run_id)
    assert view.status == "succeeded", (view.reason, killed.stderr[-2000:])
    assert engine.output(run_id) == EXPECTED[builder]
    assert engine.verify(run_id).ok
    after = Counter(path.name.partition(".")[0] for path in folder.iterdir())
    assert all(after[step] == before[step] for step in recorded), "a recorded step ran again"
    records = list(Log(engine.store, f"runs/{run_id}", engine._fold).records())
    results = Counter(step for record in records for step, _ in record.data.get("done", ()))
    assert set(results.values()) == {1}
    return killed.returncode == -9


@pytest.mark.ray
@pytest.mark.parametrize("place", SLICE)
def test_a_runner_killed_at_the_edge_of_a_record_loses_nothing(tmp_path: Path, ray_head: str, place: str) -> None:
    assert check(f"file://{tmp_path}/storage", ray_head, tmp_path / "traces", place, "small")


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.parametrize("times", ["", "@3"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("builder", list(EXPECTED))
def test_a_runner_killed_anywhere_loses_nothing(
    storage: str, tmp_path: Path, ray_head: str, place: str, builder: str, times: str
) -> None:
    if not check(storage, ray_head, tmp_path / "traces", f"{place}{times}", builder):
        pytest.skip("a runner does not pass here on this storage")
