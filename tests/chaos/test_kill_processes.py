"""The kill table: kill -9 of each process of the whole set while a run trains, one after another, on one standing set.

Each time the run ends well, nothing is recorded, released or told twice, and nothing is lost. The table is printed as
it stands in ARCHITECTURE.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.services.whole_set import WholeSet, kill, until, whole_set
from workflows.engine.claims import start_time
from workflows.services import process

pytestmark = [pytest.mark.chaos, pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(3000)]

BACK_S = 300.0
OVERRIDES = (
    "signals.cooldown_s=0",
    "signals.max_runs_per_day=100",
    "tune.num_trials=1",
    "train.num_steps=40",
    "evaluate.margin=0.5",  # the same pages trained anew are no better
    "monitor.run_length=1000",
)
WATCH = "the watch of `make up`"


@dataclass(frozen=True)
class Victim:
    """What is killed.

    Attributes:
        name: For people.
        find: Start time by pid of its processes.
        service: Whose state tells that it is back.
        by: Who brings it back.
        num_told: How often people may hear the same at most.
    """

    name: str
    find: Callable[[WholeSet, str], dict[int, int]]
    service: str
    by: str
    num_told: int = 1


def daemon(name: str) -> Callable[[WholeSet, str], dict[int, int]]:
    def find(whole: WholeSet, _: str) -> dict[int, int]:
        found = process.recorded(whole.site.state / "services" / name)
        assert found is not None
        return {found.pid: found.started}

    return find


def airflow(component: str) -> Callable[[WholeSet, str], dict[int, int]]:
    def find(whole: WholeSet, _: str) -> dict[int, int]:
        recorded = json.loads((whole.site.state / "services" / "airflow" / "processes.json").read_text())
        return process.session_of(recorded[component]["pid"])

    return find


def airflow_workers(whole: WholeSet, run_id: str) -> dict[int, int]:
    found = airflow("scheduler")(whole, run_id)
    return {pid: at for pid, at in found.items() if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def n8n(whole: WholeSet, _: str) -> dict[int, int]:
    pid = json.loads((whole.site.state / "services" / "n8n" / "data" / "n8n.pid").read_text())["pid"]
    return process.session_of(pid)


def ray_head(whole: WholeSet, _: str) -> dict[int, int]:
    recorded = json.loads((whole.site.state / "ray.json").read_text())
    return {int(pid): at for pid, at in recorded["processes"].items()}


VICTIMS = (
    Victim(
        "the runner", lambda whole, run_id: whole.runners(run_id), "", "Airflow or the reconciler, who sees it first"
    ),
    Victim("the Ray head", ray_head, "ray", "the watch, or whoever needs it first"),
    Victim("MinIO", daemon("minio"), "minio", WATCH),
    Victim("n8n", n8n, "n8n", WATCH, num_told=2),
    Victim("Airflow's triggerer", airflow("triggerer"), "airflow", WATCH),
    Victim("Airflow's scheduler", airflow("scheduler"), "airflow", WATCH),
    Victim("the door", daemon("triggers"), "triggers", WATCH),
    Victim("MLflow", daemon("mlflow"), "mlflow", WATCH),
    Victim("Airflow's API server", airflow("api-server"), "airflow", WATCH),
    Victim("Airflow's workers", airflow_workers, "airflow", "the watch, with their scheduler"),
    Victim("the reconciler", daemon("reconciler"), "reconciler", WATCH, num_told=2),
)


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    found = [
        "| killed with -9 while the run trained | who brings it back | back after | run over after | told twice |",
        "| --- | --- | --- | --- | --- |",
    ]
    yield found
    print("\n".join(["", *found]), flush=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> Iterator[WholeSet]:
    with whole_set(tmp_path_factory.mktemp("whole"), overrides=OVERRIDES) as made:
        known = ["everloop_loop"]
        until("the DAG", lambda: {dag["dag_id"] for dag in made.airflow("GET", "/dags")["dags"]} >= set(known), 120)
        began = time.monotonic()
        made.finished(begin(made, "first"))
        first_s = time.monotonic() - began
        began = time.monotonic()
        run_id = begin(made, "undisturbed")
        made.finished(run_id)
        rows.append(f"| nothing (first round {first_s:.0f} s) | - | - | {time.monotonic() - began:.0f} s | - |")
        yield made
        made.say_memory("at the end")


def begin(whole: WholeSet, name: str) -> str:
    """Has Airflow start a round; gives its run once there is one."""
    known = set(whole.runs())
    body = {"dag_run_id": name, "logical_date": None, "conf": {}}
    until("Airflow's answer", lambda: whole.airflow("POST", "/dags/everloop_loop/dagRuns", body), 120)
    found: str = until("its run", lambda: [run for run in whole.runs() if run not in known], 300)[0]
    return found


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda victim: victim.name.replace(" ", "-"))
def test_a_run_ends_well_whatever_is_killed(whole: WholeSet, rows: list[str], victim: Victim) -> None:
    name = victim.name.replace(" ", "-").replace("'", "")
    run_id = begin(whole, name)
    until("training", whole.at_step(run_id, "train"))
    found = until("somebody to kill", lambda: victim.find(whole, run_id), 60)
    epoch = whole.view(run_id).epoch
    assert kill(found) > 0, "it was gone before it could be killed"
    killed_at = time.monotonic()

    def is_back() -> bool:
        if any(start_time(pid) == at for pid, at in found.items()):
            return False
        if not victim.service:
            return whole.view(run_id).epoch > epoch
        return bool(whole.site.statuses(ok=None)[victim.service]["state"] == "healthy")

    until(f"{victim.name} back", is_back, BACK_S)
    back_s = time.monotonic() - killed_at
    whole.finished(run_id)
    over_s = time.monotonic() - killed_at

    task = until("Airflow's own word", lambda: task_over(whole, name), 400)
    until("the end in the chat", lambda: whole.told(run_id)["run.succeeded"], 400)
    told = whole.told(run_id)
    twice = [event for event, count in told.items() if count > 1]
    whole.say(f"{victim.name}: back after {back_s:.0f} s, over after {over_s:.0f} s, Airflow {task}, told {dict(told)}")
    rows.append(f"| {victim.name} | {victim.by} | {back_s:.0f} s | {over_s:.0f} s | {', '.join(twice) or '-'} |")

    assert whole.problems_of(run_id) == []
    assert whole.releases_of(run_id)["promoted"] == 1, whole.releases_of(run_id)
    assert whole.release.champion.run_id == run_id
    assert task == "success"
    assert told["run.started"] >= 1
    assert max(told.values()) <= victim.num_told, told
    assert whole.signals.active is None or whole.signals.active.run_id != run_id
    until("healthy again", lambda: {one["state"] for one in whole.site.statuses(ok=None).values()} == {"healthy"}, 300)


def task_over(whole: WholeSet, dag_run_id: str) -> Any:
    found = whole.airflow("GET", f"/dags/everloop_loop/dagRuns/{dag_run_id}/taskInstances/run")
    return found["state"] if found["state"] in ("success", "failed", "skipped") else None
