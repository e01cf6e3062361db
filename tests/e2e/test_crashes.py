"""kill -9 inside each of the eight steps, and of the Ray head: the run goes on, and nothing recorded is there twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.common.releases import open_release_log
from workflows.log import list_logs

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

STEPS = ["scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor"]


def _running(step: str) -> Callable[[Any], bool]:
    return lambda view: any(each.name == step and each.status == "running" for each in view.steps)


def _attempts(view: Any) -> dict[str, int]:
    return {step.name: step.attempts for step in view.steps}


def _registered(loop: Any) -> int:
    databases = list(Path(loop.storage.removeprefix("file://")).parent.rglob("mlflow.db")) + list(
        loop.state.rglob("mlflow.db")
    )
    versions = 0
    for database in databases:
        with sqlite3.connect(database) as connection:
            versions += connection.execute("select count(*) from model_versions").fetchone()[0]
    return versions


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("step", STEPS)
def test_a_runner_killed_inside_a_step_is_resumed(step: str, new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    registered = _registered(loop)
    process = loop.spawn("workflows.run", "--recipe", "nano", "--run-id", "killed")
    loop.kill_when(process, "killed", _running(step))
    before = loop.engine.view("killed")
    done = {each.name: each.attempts for each in before.steps if each.status == "succeeded"}

    summary = loop.run("--resume", "killed")

    after = loop.engine.view("killed")
    assert summary["status"] == "succeeded"
    assert {name: _attempts(after)[name] for name in done} == done, "a recorded step ran again"
    assert loop.engine.verify("killed").ok
    assert loop.engine.output("killed", "version").version == 1
    assert _registered(loop) - registered == 1
    releases = [record for record in open_release_log(loop.engine.store, "nano").records() if record.kind == "promoted"]
    assert len(releases) == 1
    assert loop.complete(summary["endpoint"], "nano")["choices"]


@pytest.mark.timeout(1200)
def test_two_resumes_at_once_run_no_step_twice(new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    process = loop.spawn("workflows.run", "--recipe", "nano", "--run-id", "raced")
    loop.kill_when(process, "raced", _running("tune"))

    racers = [loop.spawn("workflows.run", "--resume", "raced") for _ in range(2)]
    codes = sorted(racer.wait(timeout=600) for racer in racers)
    for racer in racers:
        racer.communicate()

    assert codes[0] == 0, codes
    view = loop.engine.view("raced")
    assert view.status == "succeeded"
    assert all(attempts == 1 for name, attempts in _attempts(view).items() if name not in ("tune", "canary"))


@pytest.mark.timeout(1200)
def test_a_lost_head_costs_the_steps_in_flight_and_the_endpoint_until_the_next_converge(
    new_loop: Callable[[], Any],
) -> None:
    loop = new_loop()
    first = loop.run("--recipe", "nano")
    process = loop.spawn("workflows.run", "--recipe", "nano", "--run-id", "headless")
    loop.wait(lambda: loop._meets("headless", _running("train")), "training", process)
    _kill_head(loop.state)
    process.communicate(timeout=600)
    before = {each.name: each.attempts for each in loop.engine.view("headless").steps if each.status == "succeeded"}

    began = time.monotonic()
    resumed = loop.spawn("workflows.run", "--resume", "headless", "--json")
    loop.wait(lambda: _answers(loop, first["endpoint"]), "the endpoint to answer", None)
    print(f"the endpoint answers {time.monotonic() - began:.1f} s after the resume")
    out, err = resumed.communicate(timeout=600)

    assert resumed.returncode == 0, err[-3000:]
    assert json.loads(out.strip().splitlines()[-1])["status"] == "succeeded"
    after = _attempts(loop.engine.view("headless"))
    assert {name: after[name] for name in before} == before
    assert list(list_logs(loop.engine.store, "datasets")) == ["datasets/nano"]


@pytest.mark.timeout(1200)
def test_a_head_lost_while_serving_costs_the_endpoint_until_the_next_converge(new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    endpoint = loop.run("--recipe", "nano")["endpoint"]
    length = len(list(open_release_log(loop.engine.store, "nano").records()))
    _kill_head(loop.state)
    loop.wait(lambda: not _answers(loop, endpoint), "the endpoint to be gone", None)

    began = time.monotonic()
    served = loop.spawn("workflows.serve", "--once")
    loop.wait(lambda: _answers(loop, endpoint), "the endpoint to answer", None)
    print(f"the endpoint answers {time.monotonic() - began:.1f} s after the converge was called")

    assert served.wait(timeout=600) == 0, served.communicate()[1][-3000:]
    served.communicate()
    assert len(list(open_release_log(loop.engine.store, "nano").records())) == length, (
        "serving wrote to the release log"
    )


@pytest.mark.timeout(1200)
def test_a_runner_stopped_past_its_time_to_live_is_fenced_and_touches_nothing(new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    stopped = loop.spawn("workflows.run", "--recipe", "nano", "--run-id", "frozen")
    loop.wait(lambda: loop._meets("frozen", _running("tune")), "tuning", stopped)
    stopped.send_signal(signal.SIGSTOP)
    try:
        summary = _resume_once_silent(loop, "frozen")
        journal = loop.engine.verify("frozen")
        dataset, releases = loop.engine.output("frozen", "version"), open_release_log(loop.engine.store, "nano")
        released = len(list(releases.records()))
    finally:
        stopped.send_signal(signal.SIGCONT)
    _, err = stopped.communicate(timeout=600)

    assert summary["status"] == "succeeded"
    assert stopped.returncode != 0, "the stopped runner believes that it has done it"
    assert "epoch" in err, err[-3000:]
    assert dataset.version == 1
    assert loop.engine.verify("frozen") == journal, "the fenced runner has written"
    assert len(list(releases.records())) == released
    assert loop.complete(summary["endpoint"], "nano")["choices"]


def _resume_once_silent(loop: Any, run_id: str) -> dict[str, Any]:
    """Resumes again and again until the silence of the holder has lasted for its time to live."""
    said: list[str] = []

    def resumed() -> bool:
        process = loop.spawn("workflows.run", "--resume", run_id, "--json")
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0 or "is held by" in err, err[-3000:]
        said.extend(out.strip().splitlines()[-1:])
        return bool(process.returncode == 0)

    loop.wait(resumed, "the run to be taken over", None)
    return dict(json.loads(said[-1]))


def _answers(loop: Any, endpoint: str) -> bool:
    try:
        return bool(loop.complete(endpoint, "nano")["choices"])
    except (urllib.error.URLError, OSError):
        return False


def _kill_head(state: Path) -> None:
    for pid in json.loads((state / "ray.json").read_text())["processes"]:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
