"""Runners that die, sleep and race: nothing recorded is lost, nothing recorded runs twice, the loser stops."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflows.engine import graphs
from tests.workflows.engine.conftest import until
from workflows.engine import Engine, RunBusy
from workflows.log import Log

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_head")]
Start = Callable[..., "subprocess.Popen[str]"]


def answer(process: subprocess.Popen[str]) -> str:
    """The last line that a runner printed; Ray prints about lost workers before it."""
    output, errors = process.communicate(timeout=120)
    assert output, errors
    return output.strip().splitlines()[-1]


def runs_by_step(folder: str) -> Counter[str]:
    return Counter(path.name.partition(".")[0] for path in Path(folder).iterdir())


def test_after_kill_9_only_the_step_in_flight_runs_again(engine: Engine, folder: str, runner: Start) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 150})
    first = runner(engine.store.uri, run_id)
    until(lambda: graphs.seen(folder, "add40"))
    first.kill()
    first.wait()
    recorded = {step.name for step in engine.view(run_id).steps if step.status == "succeeded"}
    assert 0 < len(recorded) < 150
    view = engine.drive(run_id)
    assert view.status == "succeeded", view.reason
    assert engine.output(run_id) == 150
    runs = runs_by_step(folder)
    assert all(runs[name] == 1 for name in recorded)
    assert max(runs.values()) <= 2
    assert sum(runs.values()) <= 151


def test_two_drives_at_once_run_no_step_twice(engine: Engine, folder: str, runner: Start) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 60})
    pair = [runner(engine.store.uri, run_id), runner(engine.store.uri, run_id)]
    answers = sorted(answer(process) for process in pair)
    assert answers in (["RunBusy", "succeeded"], ["succeeded", "succeeded"])
    assert engine.view(run_id).status == "succeeded"
    assert set(runs_by_step(folder).values()) == {1}


def test_a_living_runner_is_not_replaced(engine: Engine, folder: str, runner: Start) -> None:
    run_id = engine.start(graphs.slow_graph, {"folder": folder})
    first = runner(engine.store.uri, run_id)
    until(lambda: graphs.seen(folder, "slow"))
    with pytest.raises(RunBusy, match=f"process {first.pid}"):
        engine.drive(run_id)
    (Path(folder) / "go").touch()
    assert answer(first) == "succeeded"


def test_a_runner_that_slept_past_its_time_is_fenced_and_touches_nothing(
    engine: Engine, folder: str, runner: Start
) -> None:
    run_id = engine.start(graphs.slow_graph, {"folder": folder})
    first = runner(engine.store.uri, run_id)
    until(lambda: graphs.seen(folder, "slow"))
    os.kill(first.pid, signal.SIGSTOP)
    second = until(lambda: _claimed_by_another(engine, runner, run_id, epoch=1))
    until(lambda: graphs.seen(folder, "slow") == 2)
    (Path(folder) / "go").touch()
    assert answer(second) == "succeeded"
    history = engine.verify(run_id)
    os.kill(first.pid, signal.SIGCONT)
    assert answer(first) in {"Fenced", "RunOver"}
    assert engine.verify(run_id).head == history.head
    # The first runner's attempt was still there when it was told to go: its fence kept it from its effect.
    assert graphs.seen(folder, "effect") == 1
    assert engine.output(run_id) == 2


def _claimed_by_another(engine: Engine, runner: Start, run_id: str, *, epoch: int) -> subprocess.Popen[str] | None:
    process = runner(engine.store.uri, run_id)
    until(lambda: process.poll() is not None or engine.view(run_id).epoch > epoch)
    return process if process.poll() is None or engine.view(run_id).epoch > epoch else None


def test_each_claim_replaces_the_one_before(engine: Engine, folder: str, runner: Start) -> None:
    run_id = engine.start(graphs.chain, {"folder": folder, "length": 400})
    for _ in range(2):
        before = graphs.seen(folder, "add*")
        process = runner(engine.store.uri, run_id)
        until(lambda seen=before: graphs.seen(folder, "add*") > seen + 5)
        process.kill()
        process.wait()
    assert engine.drive(run_id).status == "succeeded"
    records = list(Log(engine.store, f"runs/{run_id}", engine._fold).records())
    claims = [record for record in records if record.kind == "claimed"]
    assert [claim.epoch for claim in claims] == [1, 2, 3]
    assert [claim.data["replaces"] for claim in claims] == [None, claims[0].index, claims[1].index]
    epochs = [record.epoch for record in records if record.kind == "advanced"]
    assert epochs == sorted(epochs)
