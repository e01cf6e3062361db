"""A whole round of the real loop, from Airflow's schedule to an answering endpoint, by way of the real door."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_loop.real_airflow import (
    REPOSITORY,
    RealAirflow,
    environment_folder,
    free_port,
    running,
    until,
)
from workflows.access import key_digest, new_api_key
from workflows.engine import Engine, RunNotFound, head
from workflows.log import open_store

pytestmark = [pytest.mark.services, pytest.mark.timeout(1200)]

ROUND_DEADLINE_S = 900.0
STEPS = {"scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor"}


@dataclass(frozen=True)
class World:
    """Airflow, and the loop that it drives."""

    airflow: RealAirflow
    storage: str
    state: Path
    dashboard: str
    token: str

    def run(self, dag_run_id: str) -> dict[str, Any]:
        """Starts a round and waits for its result."""
        self.begin(dag_run_id)
        return self.result(dag_run_id)

    def begin(self, dag_run_id: str) -> None:
        """Starts a round."""
        self.airflow.trigger("everloop_loop", dag_run_id, {"recipe": "nano", "storage": self.storage})

    def result(self, dag_run_id: str) -> dict[str, Any]:
        """Waits for the result of a round."""
        found = self.airflow.wait(
            "everloop_loop", dag_run_id, "success", "failed", "skipped", task_id="run", deadline_s=ROUND_DEADLINE_S
        )
        assert found["state"] == "success", self.airflow.task_log("everloop_loop", dag_run_id, "run")
        result: dict[str, Any] = self.airflow.xcom("everloop_loop", dag_run_id, "run")
        return result

    def half_way(self, dag_run_id: str) -> tuple[str, dict[str, float | None]]:
        """Starts a round and waits until it is in the middle; gives its id, and when which step was done."""
        self.begin(dag_run_id)
        self.airflow.wait("everloop_loop", dag_run_id, "deferred", task_id="run")
        run_id = str(self.airflow.xcom("everloop_loop", dag_run_id, "run", "run_id"))
        until("a finished step", lambda: "validate" in self.finished(run_id), ROUND_DEADLINE_S)
        return run_id, self.finished(run_id)

    def finished(self, run_id: str) -> dict[str, float | None]:
        """When which step of a run was done."""
        try:
            steps = Engine(self.storage).view(run_id).steps
        except RunNotFound:
            return {}
        return {step.name: step.finished_at for step in steps if step.status == "succeeded"}

    def jobs(self, run_id: str) -> dict[str, dict[str, Any]]:
        """Ray's jobs of a run, by their ids."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/jobs/", headers={"authorization": f"Bearer {self.token}"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            found = json.load(answer)
        return {job["submission_id"]: job for job in found if str(job["submission_id"]).startswith(run_id)}

    def driver(self, run_id: str) -> int:
        """Pid of the driver of a run's first job."""
        return int(self.jobs(run_id)[f"{run_id}-a0"]["driver_info"]["pid"])


@pytest.fixture(scope="module", params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Airflow, a Ray head with its Jobs API, the door with its principals; storage in a folder, or on MinIO."""
    root = tmp_path_factory.mktemp(f"loop-{request.param}")
    if request.param == "file":
        storage = f"file://{root}/storage"
    else:
        storage = f"s3://tests/{secrets.token_hex(6)}?endpoint_override={request.getfixturevalue('minio')}"
    kept = os.environ.get("EVERLOOP_STATE")
    os.environ["EVERLOOP_STATE"] = str(root / "state")
    key, door_port = new_api_key(), free_port()
    door = None
    try:
        found = head.start(root / "state", dashboard=True)
        door = _door(root, storage, door_port, key)
        airflow = RealAirflow(
            root / "airflow",
            {
                "EVERLOOP_AIRFLOW_VENV": str(environment_folder(tmp_path_factory)),
                "EVERLOOP_DOOR_URL": f"http://127.0.0.1:{door_port}",
                "EVERLOOP_DOOR_KEY": key,
                "EVERLOOP_PYTHON": sys.executable,
                "EVERLOOP_STORAGE": storage,
                "EVERLOOP_POLL_S": "1",
            },
        )
        with running(airflow):
            airflow.ready("everloop_loop", "everloop_maintenance")
            yield World(airflow, storage, root / "state", found.dashboard, Path(found.token_file).read_text().strip())
    finally:
        if door is not None:
            door.terminate()
            door.wait(60)
        head.stop(root / "state")
        os.environ.pop("EVERLOOP_STATE")
        if kept is not None:
            os.environ["EVERLOOP_STATE"] = kept


def _door(root: Path, storage: str, port: int, key: str) -> subprocess.Popen[bytes]:
    principals, settings = root / "principals.toml", root / "settings.toml"
    principals.write_text(
        f"[[principal]]\nkind = 'Service'\nid = 'airflow'\nroles = ['scheduler']\nteam = 'local'\n"
        f"clearance = 'internal'\napi_keys = ['{key_digest(key)}']\n"
    )
    settings.write_text(
        f"storage = '{storage}'\nport = {port}\nstate = '{root}/door'\nprincipals = '{principals}'\n"
        "[aliases.nano]\nrecipe = 'nano'\n"
    )
    with (root / "door.log").open("wb") as log:
        door = subprocess.Popen(
            [sys.executable, "-m", "triggers", "--settings", str(settings)], cwd=REPOSITORY, stdout=log, stderr=log
        )

    def answers() -> bool:
        assert door.poll() is None, (root / "door.log").read_text()
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{port}/healthz"
            ).close()
        except OSError:
            return False
        return True

    until("the door", answers)
    return door


def test_a_round_by_airflow_is_told_checked_and_done_once(world: World) -> None:
    result = world.run("manual-1")
    run_id = world.airflow.xcom("everloop_loop", "manual-1", "run", "run_id")
    assert (result["run_id"], result["status"]) == (run_id, "succeeded")
    assert result["endpoint"]
    view = Engine(world.storage).view(run_id)
    assert {step.name for step in view.steps} >= STEPS
    assert {step.attempts for step in view.steps} == {1}
    events = world.airflow.ask("GET", "/assets/events?order_by=-timestamp")["asset_events"]
    assert events[0]["extra"]["run_id"] == run_id
    until("the notice in the log", lambda: "run.succeeded" in _notices(world.storage))
    world.airflow.trigger("everloop_maintenance", "night-1", {"storage": world.storage})
    found = world.airflow.wait(
        "everloop_maintenance", "night-1", "success", "failed", "upstream_failed", task_id="collect", deadline_s=300
    )
    assert found["state"] == "success", world.airflow.task_log("everloop_maintenance", "night-1", "verify")


@pytest.mark.slow
def test_a_driver_killed_in_the_middle_of_a_round_is_followed_by_one_that_repeats_nothing(world: World) -> None:
    run_id, before = world.half_way("manual-2")
    os.kill(world.driver(run_id), signal.SIGKILL)
    _is_done_once(world, "manual-2", run_id, before)
    assert {name: job["status"] for name, job in world.jobs(run_id).items()} == {
        f"{run_id}-a0": "FAILED",
        f"{run_id}-a1": "SUCCEEDED",
    }
    assert world.airflow.task("everloop_loop", "manual-2", "run")["try_number"] == 1


@pytest.mark.slow
def test_a_head_lost_in_the_middle_of_a_round_costs_what_was_in_flight(world: World) -> None:
    run_id, before = world.half_way("manual-3")
    lost = head.find(world.state)
    assert lost is not None
    for pid in lost.processes:
        os.kill(int(pid), signal.SIGKILL)
    until("the death of the head", lambda: not lost.alive())
    head.start(world.state, dashboard=True)
    _is_done_once(world, "manual-3", run_id, before)
    # The new head knows nothing of the jobs before it. One that comes while the old driver still seems to live is
    # refused, and followed by another.
    *refused, last = [job["status"] for _, job in sorted(world.jobs(run_id).items())]
    assert (set(refused) <= {"FAILED"}, last) == (True, "SUCCEEDED")
    assert world.airflow.task("everloop_loop", "manual-3", "run")["try_number"] == 1


@pytest.mark.slow
def test_a_driver_that_wakes_after_another_took_over_is_refused(world: World) -> None:
    """The driver is frozen, a person resumes the run, the driver goes on: it may not write, and the task ends well."""
    run_id, before = world.half_way("manual-4")
    driver = world.driver(run_id)
    os.kill(driver, signal.SIGSTOP)
    try:
        until("the other's end", lambda: _resumed(world, run_id), ROUND_DEADLINE_S)
        journal = Engine(world.storage).verify(run_id)
    finally:
        os.kill(driver, signal.SIGCONT)
    _is_done_once(world, "manual-4", run_id, before)
    assert world.jobs(run_id)[f"{run_id}-a0"]["status"] == "FAILED", "the overtaken driver believes that it has done it"
    assert Engine(world.storage).verify(run_id) == journal, "the overtaken driver has written"


def _resumed(world: World, run_id: str) -> bool:
    """Whether another process has driven the run to its end; at first it is refused, for its holder seems to live."""
    command = [sys.executable, "-m", "workflows.run", "--resume", run_id, "--storage", world.storage, "--json"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=ROUND_DEADLINE_S
    )
    assert done.returncode == 0 or "is held by" in done.stderr, done.stderr
    return done.returncode == 0


def _is_done_once(world: World, dag_run_id: str, run_id: str, before: dict[str, float | None]) -> None:
    """The task has a result, and what was done before the fault was not done again."""
    result = world.result(dag_run_id)
    assert (result["run_id"], result["status"]) == (run_id, "succeeded")
    after = world.finished(run_id)
    assert {name: after[name] for name in before} == before
    assert Engine(world.storage).view(run_id).epoch == 2


def _notices(storage: str) -> str:
    store = open_store(storage)
    return "".join(
        store.get(entry.key).decode(errors="replace") for entry in store.list("notices") if entry.key.endswith(".json")
    )
