"""The operator in a real Airflow, on the Jobs API of a real Ray: begun twice, killed, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_loop.postgres import postgres
from tests.airflow_loop.real_airflow import (
    REPOSITORY,
    Gateway,
    RealAirflow,
    environment_folder,
    listening,
    running,
    session_of,
    until,
)
from workflows.engine import head

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

WRONG_TOKEN = "wrong-token-8c1f0d2e"
LOOPBACK = "0100007F"
DOOR_KEY = "door-key-5b7a9e31"
TINY = REPOSITORY / "tests" / "airflow_loop"
DAGS = ("tiny", "tiny_wrong_token", "tiny_deadline", "tiny_deadline_refused", "tiny_on_data")


@dataclass(frozen=True)
class World:
    """Airflow, the gateway before its neighbours, and the folder in which jobs write."""

    airflow: RealAirflow
    gateway: Gateway
    dashboard: str
    token: str
    folder: Path

    def journal(self, dag_id: str, dag_run_id: str) -> Path:
        """What the job of a DAG run wrote."""
        return self.folder / str(self.airflow.xcom(dag_id, dag_run_id, key="run_id"))

    def ray(self, path: str) -> Any:
        """Asks Ray itself, past the gateway."""
        request = urllib.request.Request(self.dashboard + path, headers={"authorization": f"Bearer {self.token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)

    def jobs(self, dag_run_id: str) -> dict[str, str]:
        """State by id of the jobs that a DAG run submitted."""
        found = self.ray("/api/jobs/")
        return {
            job["submission_id"]: job["status"]
            for job in found
            if (job.get("metadata") or {}).get("airflow_run") == dag_run_id
        }

    def begun(self, dag_id: str, dag_run_id: str) -> None:
        """Starts a DAG run and waits until its job waits and its task is deferred."""
        self.airflow.trigger(dag_id, dag_run_id)
        self.airflow.wait(dag_id, dag_run_id, "deferred")
        until("the first step", (self.journal(dag_id, dag_run_id) / "first").exists)

    def release(self) -> None:
        """Lets all jobs go on."""
        (self.folder / "release").touch()

    def notices(self, dag_run_id: str) -> list[dict[str, Any]]:
        """What people were told of a DAG run."""
        return [notice for notice in self.gateway.notices if notice["facts"]["dag_run_id"] == dag_run_id]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A real Ray head with its Jobs API and token, and a real Airflow that submits to it through the gateway."""
    root = tmp_path_factory.mktemp(f"airflow-{request.param}")
    with ExitStack() as stack:
        database = {}
        if request.param == "postgres":
            database["EVERLOOP_AIRFLOW_DB"] = stack.enter_context(postgres(tmp_path_factory.mktemp("postgres")))
        yield from _world(root, {"EVERLOOP_AIRFLOW_VENV": str(environment_folder(tmp_path_factory)), **database})


def _world(root: Path, environment: dict[str, str]) -> Iterator[World]:
    (root / "jobs").mkdir()
    (root / "dags").mkdir()
    # Not the loop itself: an event of the tests must not begin a round.
    for file in (TINY / "dags" / "tiny_jobs.py", REPOSITORY / "airflow" / "dags" / "everloop_signals.py"):
        shutil.copy(file, root / "dags")
    found = head.start(root / "state", dashboard=True)
    gateway = Gateway(found.dashboard)
    gateway.start()
    token = Path(found.token_file).read_text().strip()
    wrong = {"conn_type": "http", "host": "127.0.0.1", "port": gateway.port, "password": WRONG_TOKEN}
    airflow = RealAirflow(
        root / "airflow",
        {
            **environment,
            "EVERLOOP_RAY_URL": f"http://127.0.0.1:{gateway.port}",
            "EVERLOOP_RAY_TOKEN_FILE": found.token_file,
            "EVERLOOP_DOOR_URL": f"http://127.0.0.1:{gateway.port}",
            "EVERLOOP_DOOR_KEY": DOOR_KEY,
            "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
            "AIRFLOW_CONN_WRONG_TOKEN": json.dumps(wrong),
            "TINY_PYTHON": sys.executable,
            "TINY_JOB": str(TINY / "journal_job.py"),
            "TINY_FOLDER": str(root / "jobs"),
        },
    )
    try:
        with running(airflow):
            airflow.ready(*DAGS, "everloop_on_drift", "everloop_on_new_data")
            yield World(airflow, gateway, found.dashboard, token, root / "jobs")
    finally:
        gateway.stop()
        head.stop(root / "state")


@pytest.fixture(autouse=True)
def _jobs_wait(world: World) -> Iterator[None]:
    """Each test begins with jobs that wait, and ends with none that does."""
    (world.folder / "release").unlink(missing_ok=True)
    world.gateway.mode = "through"
    yield
    world.release()
    world.gateway.mode = "through"


def test_a_run_is_one_job_whose_last_line_becomes_the_result(world: World) -> None:
    world.release()
    world.airflow.trigger("tiny", "plain")
    found = world.airflow.wait("tiny", "plain", "success", "failed")
    assert found["state"] == "success"
    run_id = world.airflow.xcom("tiny", "plain", key="run_id")
    assert world.airflow.xcom("tiny", "plain") == {"run_id": run_id, "status": "succeeded", "starts": 1, "data": []}
    assert world.jobs("plain") == {f"{run_id}-a0": "SUCCEEDED"}
    told = until("the notice", lambda: world.notices("plain"))
    assert [(notice["event"], notice["authorization"]) for notice in told] == [("run.succeeded", f"Bearer {DOOR_KEY}")]


def test_a_clear_after_success_gives_the_stored_result(world: World) -> None:
    world.release()
    world.airflow.trigger("tiny", "again")
    world.airflow.wait("tiny", "again", "success")
    # A clear between the end of the task and that of its run is lost: the scheduler ends the run all the same.
    until("the end of the run", lambda: "again" in _runs(world, "tiny", "success"))
    before = world.jobs("again")
    tries = world.airflow.task("tiny", "again")["try_number"]
    _clear(world, "again")
    until("another try", lambda: world.airflow.task("tiny", "again")["try_number"] > tries)
    world.airflow.wait("tiny", "again", "success")
    assert world.jobs("again") == before
    assert world.airflow.xcom("tiny", "again")["starts"] == 1


@pytest.mark.parametrize(
    "component",
    [
        "triggerer",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("scheduler", "api-server", "dag-processor")),
    ],
)
def test_a_component_killed_while_deferred_costs_nothing(world: World, component: str) -> None:
    dag_run_id = f"killed-{component}"
    world.begun("tiny", dag_run_id)
    world.airflow.kill(component)
    world.airflow.start()
    assert list(world.jobs(dag_run_id).values()) == ["RUNNING"]
    world.release()
    # A worker that went on just then may lose its API server too, and its task a try: the job is the same.
    assert world.airflow.wait("tiny", dag_run_id, "success", "failed")["state"] == "success"
    assert world.airflow.xcom("tiny", dag_run_id)["starts"] == 1
    assert len(world.jobs(dag_run_id)) == 1


def test_a_worker_killed_between_submitting_and_remembering_makes_no_second_job(world: World) -> None:
    killed: list[int] = []

    def kill_worker() -> None:
        killed.extend(_kill_task_processes(world, "submitter"))

    world.gateway.after_submit = kill_worker
    world.airflow.trigger("tiny", "submitter")
    until("the kill", lambda: killed)
    until("another try", lambda: world.airflow.task("tiny", "submitter")["try_number"] > 1)
    world.release()
    assert world.airflow.wait("tiny", "submitter", "success", "failed")["state"] == "success"
    assert len(world.jobs("submitter")) == 1
    assert world.airflow.xcom("tiny", "submitter")["starts"] == 1


def test_a_killed_driver_is_followed_by_one_that_repeats_nothing(world: World) -> None:
    world.begun("tiny", "driver")
    journal = world.journal("tiny", "driver")
    os.kill(int((journal / "start-0").read_text()), signal.SIGKILL)
    until("the second driver", (journal / "start-1").exists)
    world.release()
    assert world.airflow.wait("tiny", "driver", "success", "failed")["state"] == "success"
    assert world.jobs("driver") == {f"{journal.name}-a0": "FAILED", f"{journal.name}-a1": "SUCCEEDED"}
    assert {name: (journal / f"{name}-ran").read_text() for name in ("first", "second")} == {
        "first": "x",
        "second": "x",
    }


@pytest.mark.slow
def test_a_failed_command_is_tried_again_and_then_told_once(world: World) -> None:
    world.release()
    world.airflow.trigger("tiny", "failing", {"exit_code": "1"})
    world.airflow.wait("tiny", "failing", "failed")
    jobs = world.jobs("failing")
    assert len(jobs) >= 2
    assert set(jobs.values()) == {"FAILED"}
    told = until("the notice", lambda: world.notices("failing"))
    assert [(notice["event"], notice["severity"]) for notice in told] == [("run.failed", "critical")]


def test_marking_a_deferred_task_failed_stops_its_job(world: World) -> None:
    world.begun("tiny", "marked")
    world.airflow.ask("PATCH", "/dags/tiny/dagRuns/marked/taskInstances/job", {"new_state": "failed"})
    until("the stop", lambda: list(world.jobs("marked").values()) == ["STOPPED"], 15)
    assert world.airflow.task("tiny", "marked")["state"] == "failed"


def test_clearing_a_deferred_task_stops_its_job_and_begins_the_next_attempt_of_the_same_run(world: World) -> None:
    world.begun("tiny", "cleared")
    journal = world.journal("tiny", "cleared")
    _clear(world, "cleared")
    until("the stop", lambda: world.jobs("cleared").get(f"{journal.name}-a0") == "STOPPED", 15)
    until("the second driver", (journal / "start-1").exists)
    world.release()
    assert world.airflow.wait("tiny", "cleared", "success", "failed")["state"] == "success"
    assert (journal / "first-ran").read_text() == "x"


@pytest.mark.slow
def test_a_restart_of_the_triggerer_does_not_stop_the_job(world: World) -> None:
    world.begun("tiny", "restart")
    leader = json.loads((world.airflow.folder / "processes.json").read_text())["triggerer"]["pid"]
    os.kill(leader, signal.SIGTERM)
    until("the end of the triggerer", lambda: "not running" in world.airflow.command("status", check=False).stdout)
    world.airflow.start()
    assert list(world.jobs("restart").values()) == ["RUNNING"]
    world.release()
    assert world.airflow.wait("tiny", "restart", "success", "failed")["state"] == "success"


def test_a_wrong_token_fails_at_once_and_stands_nowhere(world: World) -> None:
    world.airflow.trigger("tiny_wrong_token", "denied")
    found = world.airflow.wait("tiny_wrong_token", "denied", "failed")
    assert found["try_number"] == 1
    assert "refused the token" in world.airflow.task_log("tiny_wrong_token", "denied")
    for path in world.airflow.folder.rglob("*"):
        if path.is_file() and "venv" not in path.parts:
            assert WRONG_TOKEN.encode() not in path.read_bytes(), path


def test_the_right_token_stands_in_the_connections_file_alone(world: World) -> None:
    world.release()
    world.airflow.trigger("tiny", "secret")
    world.airflow.wait("tiny", "secret", "success")
    secret = (world.token.encode(), DOOR_KEY.encode())
    files = [path for path in world.airflow.folder.rglob("*") if path.is_file() and "venv" not in path.parts]
    holding = {path.name for path in files if any(found in path.read_bytes() for found in secret)}
    assert holding == {"connections.json"}
    assert (world.airflow.folder / "connections.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "mode", ["refuse", pytest.param("503", marks=pytest.mark.slow), pytest.param("truncated", marks=pytest.mark.slow)]
)
def test_a_dashboard_that_gives_no_usable_answer_is_borne(world: World, mode: Any) -> None:
    world.begun("tiny", f"outage-{mode}")
    world.gateway.mode = mode
    until("the warning", lambda: "gave no usable answer" in world.airflow.task_log("tiny", f"outage-{mode}"))
    world.release()
    until("the job's end", lambda: list(world.jobs(f"outage-{mode}").values()) == ["SUCCEEDED"])
    assert world.airflow.task("tiny", f"outage-{mode}")["state"] == "deferred"
    world.gateway.mode = "through"
    assert world.airflow.wait("tiny", f"outage-{mode}", "success", "failed")["state"] == "success"
    assert len(world.jobs(f"outage-{mode}")) == 1


@pytest.mark.slow
def test_a_minute_without_the_dashboard_is_borne(world: World) -> None:
    world.begun("tiny", "minute")
    world.gateway.mode = "refuse"
    back_at = time.monotonic() + 60
    world.release()
    until("a minute", lambda: time.monotonic() > back_at)
    assert world.airflow.task("tiny", "minute")["state"] == "deferred"
    world.gateway.mode = "through"
    assert world.airflow.wait("tiny", "minute", "success", "failed")["state"] == "success"
    assert len(world.jobs("minute")) == 1


@pytest.mark.slow
def test_a_run_that_waits_for_a_person_is_followed_through_the_door(world: World) -> None:
    world.airflow.trigger("tiny", "person", {"exit_code": "3"})
    world.airflow.wait("tiny", "person", "deferred")
    run_id = world.airflow.xcom("tiny", "person", key="run_id")
    world.gateway.runs[run_id] = {"run_id": run_id, "status": "parked", "reason": ""}
    world.release()
    until("following", lambda: "through the door" in world.airflow.task_log("tiny", "person"))
    assert world.airflow.task("tiny", "person")["state"] == "deferred"
    world.gateway.runs[run_id] = {"run_id": run_id, "status": "succeeded", "reason": "", "steps": []}
    assert world.airflow.wait("tiny", "person", "success", "failed")["state"] == "success"
    assert world.airflow.xcom("tiny", "person")["status"] == "succeeded"


@pytest.mark.slow
def test_a_deadline_is_told_once_and_not_of_a_run_that_failed(world: World) -> None:
    world.airflow.trigger("tiny_deadline_refused", "failed")
    world.airflow.wait("tiny_deadline_refused", "failed", "failed")
    world.begun("tiny_deadline", "late")
    until("the notice", lambda: world.notices("late"))
    world.release()
    world.airflow.wait("tiny_deadline", "late", "success")
    # Its own deadline was before that of the late one, of which the notice is here.
    assert [notice["event"] for notice in world.notices("late")] == ["schedule.missed"]
    assert world.notices("failed") == []


@pytest.mark.slow
def test_a_burst_of_events_during_a_run_becomes_one_more_run_that_reads_all(world: World) -> None:
    """Airflow may leave the later events of a burst to the next run; a run reads what is there, not what it is told."""
    _new_data(world, "burst-0")
    first = until("the first run", lambda: _runs(world, "tiny_on_data"))[0]
    world.airflow.wait("tiny_on_data", first, "deferred")
    until("what it reads", (world.journal("tiny_on_data", first) / "first").exists)
    for number in range(1, 6):
        _new_data(world, f"burst-{number}")
    world.release()
    found = until("two runs", lambda: len(done := _runs(world, "tiny_on_data", "success")) == 2 and done)
    read = [set(world.airflow.xcom("tiny_on_data", run)["data"]) for run in found]
    assert read == [{"burst-0"}, {f"burst-{number}" for number in range(6)}]
    assert _runs(world, "tiny_on_data") == found
    told = [number for run in found for number in _told(world, "tiny_on_data", run)]
    assert len(set(told)) == len(told), "no two runs for one event"


@pytest.mark.slow
def test_each_event_of_new_data_becomes_a_wish_for_a_round_once(world: World) -> None:
    asset_id = _asset(world, "everloop_new_data")

    def wished() -> list[str]:
        events = world.airflow.ask("GET", f"/assets/events?asset_id={_asset(world, 'everloop_wanted')}")["asset_events"]
        return sorted(told["name"] for event in events for told in event["extra"]["events"])

    def is_idle() -> bool:
        runs = _runs(world, "everloop_on_new_data")
        return bool(runs) and runs == _runs(world, "everloop_on_new_data", "success") and bool(wished())

    for name in ("new-0", "new-1", "new-2"):
        _event(world, asset_id, name)
    until("a wish", is_idle)
    # Brings with it what Airflow has left of the burst.
    _event(world, asset_id, "new-3")
    until("all wishes", lambda: wished() == [f"new-{number}" for number in range(4)])


@pytest.mark.slow
@pytest.mark.parametrize("world", ["postgres"], indirect=True)
def test_two_schedulers_answer_a_batch_of_events_once_and_one_may_die(world: World) -> None:
    before = set(_runs(world, "tiny_on_data"))
    with (world.airflow.folder / "second.log").open("wb") as log:
        second = world.airflow.spawn(log, "env", "airflow", "scheduler", "--skip-serve-logs")
    try:
        until("two schedulers", lambda: _num_schedulers(world) == 2)
        batch = {f"batch-{number}" for number in range(5)}
        for name in sorted(batch):
            _new_data(world, name)
        first = until("a run", lambda: sorted(set(_runs(world, "tiny_on_data")) - before))[0]
        world.airflow.wait("tiny_on_data", first, "deferred")
        world.airflow.kill("scheduler")
        world.release()

        def read() -> bool:
            found = set(_runs(world, "tiny_on_data")) - before
            done = found & set(_runs(world, "tiny_on_data", "success"))
            return found == done and any(batch <= set(world.airflow.xcom("tiny_on_data", run)["data"]) for run in done)

        until("a run that has read all", read)
        new = sorted(set(_runs(world, "tiny_on_data")) - before)
        for run in new:
            assert len(world.jobs(run)) == 1
            assert world.airflow.xcom("tiny_on_data", run)["starts"] == 1
        told = [number for run in new for number in _told(world, "tiny_on_data", run)]
        assert len(set(told)) == len(told), "no two runs for one event"
    finally:
        for pid in session_of(second.pid):
            os.kill(pid, signal.SIGKILL)
        second.wait(60)
        world.airflow.start()


def test_start_brings_up_four_healthy_components_and_stop_ends_all_of_them(world: World) -> None:
    """The last one here: it leaves nothing running."""

    def leaders() -> dict[str, int]:
        recorded = json.loads((world.airflow.folder / "processes.json").read_text())
        return {name: entry["pid"] for name, entry in recorded.items()}

    before = leaders()
    assert set(before) == {"api-server", "scheduler", "dag-processor", "triggerer"}
    told = dict(line.split(maxsplit=1) for line in world.airflow.command("status").stdout.splitlines()[: len(before)])
    assert told == {name: f"pid {pid}" for name, pid in before.items()}
    health = world.airflow.ask("GET", "/monitor/health")
    assert {health[part]["status"] for part in ("metadatabase", "scheduler", "triggerer", "dag_processor")} == {
        "healthy"
    }
    assert listening(pid for leader in before.values() for pid in session_of(leader)) == {LOOPBACK}
    world.airflow.start()
    assert leaders() == before, "what runs is left alone"
    world.airflow.stop()
    assert {name: session_of(pid) for name, pid in before.items()} == {name: [] for name in before}
    stopped = world.airflow.command("status", check=False)
    assert (stopped.returncode, stopped.stdout.count("not running")) == (1, 4)


def _num_schedulers(world: World) -> int:
    jobs = world.airflow.ask("GET", "/jobs?job_type=SchedulerJob&is_alive=true")["jobs"]
    return len([job for job in jobs if job["state"] == "running"])


def _clear(world: World, dag_run_id: str) -> None:
    body = {"dry_run": False, "dag_run_id": dag_run_id, "task_ids": ["job"], "only_failed": False}
    world.airflow.ask("POST", "/dags/tiny/clearTaskInstances", body)


def _asset(world: World, name: str) -> int:
    found = world.airflow.ask("GET", f"/assets?name_pattern={name}")["assets"]
    return int(next(asset["id"] for asset in found if asset["name"] == name))


def _event(world: World, asset_id: int, name: str) -> None:
    world.airflow.ask("POST", "/assets/events", {"asset_id": asset_id, "extra": {"name": name}})


def _new_data(world: World, name: str) -> None:
    """Data, and the event that tells of it."""
    (world.folder / "data").mkdir(exist_ok=True)
    (world.folder / "data" / name).touch()
    _event(world, _asset(world, "tiny_data"), name)


def _told(world: World, dag_id: str, dag_run_id: str) -> list[str]:
    """The events that a run was started for."""
    run = urllib.parse.quote(dag_run_id, safe="")
    found = world.airflow.ask("GET", f"/dags/{dag_id}/dagRuns/{run}/upstreamAssetEvents")["asset_events"]
    return [str(event["extra"]["name"]) for event in found]


def _runs(world: World, dag_id: str, *states: str) -> list[str]:
    found = world.airflow.ask("GET", f"/dags/{dag_id}/dagRuns?order_by=run_after")["dag_runs"]
    return [run["dag_run_id"] for run in found if not states or run["state"] in states]


def _kill_task_processes(world: World, dag_run_id: str) -> list[int]:
    """kill -9 of the process that runs a task, and of its supervisor."""
    killed = []
    pid = int(world.airflow.task("tiny", dag_run_id)["pid"])
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for member in (parent, pid):
        os.kill(member, signal.SIGKILL)
        killed.append(member)
    return killed
