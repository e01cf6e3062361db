"""The operator and its trigger, and the DAG files, in Airflow's environment."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("airflow.sdk", reason="runs in Airflow's environment, by tests/services/test_airflow_units.py")

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.utils.types import DagRunType
from everloop.attempts import Attempt
from everloop.endpoint import Endpoint
from everloop.operator import RUN_ID, RayJobOperator, RayPipelineOperator
from everloop.outcomes import Outcome
from everloop.trigger import RayJobTrigger
from jinja2.sandbox import SandboxedEnvironment

from tests.airflow_loop.fake_ray import TOKEN, FakeRay

REPOSITORY = Path(__file__).resolve().parents[2]
DAG_FILES = sorted((REPOSITORY / "airflow" / "dags").glob("*.py"))
ARGUMENTS: dict[str, Any] = {
    "submission_id": "r-a0",
    "workflow": "r",
    "ray_conn_id": "everloop_ray",
    "door_conn_id": None,
    "poll_s": 1.0,
    "unreachable_timeout_s": 60.0,
}


def conclude(
    outcome: Outcome, operator: RayJobOperator | None = None, *, is_new: bool = True, num_lost: int = 0
) -> Any:
    operator = operator or RayJobOperator(task_id="job", command=["true"])
    return operator.conclude({}, outcome.dump(), workflow="r", number=0, is_new=is_new, num_lost=num_lost)


def test_a_trigger_is_made_again_from_its_row_and_holds_no_secret() -> None:
    path, arguments = RayJobTrigger(**ARGUMENTS).serialize()
    assert (path, arguments) == ("everloop.trigger.RayJobTrigger", ARGUMENTS)
    assert RayJobTrigger(**arguments).serialize()[1] == ARGUMENTS


def test_success_gives_the_result() -> None:
    assert conclude(Outcome("succeeded", "r", result={"rows": 3})) == {"rows": 3}


def test_a_suppressed_run_skips_the_task_with_the_reason() -> None:
    with pytest.raises(AirflowSkipException, match="100 s of rest"):
        conclude(Outcome("suppressed", "r", "100 s of rest are left"))


@pytest.mark.parametrize("end", ["refused", "stopped"])
def test_what_would_fail_again_is_not_retried(end: Any) -> None:
    with pytest.raises(AirflowFailException):
        conclude(Outcome(end, "r", "why"))


@pytest.mark.parametrize("end", ["failed", "unreachable"])
def test_what_may_go_well_next_time_is_retried(end: Any) -> None:
    with pytest.raises(AirflowException) as caught:
        conclude(Outcome(end, "r", "why"))
    assert not isinstance(caught.value, AirflowFailException)


class Redriven(RayJobOperator):
    """Counts how often it is driven again."""

    def _drive(self, context: Any, workflow: str, num_lost: int = 0) -> Any:
        return "driven again", num_lost


@pytest.mark.parametrize(("end", "is_new"), [("killed", True), ("lost", True), ("lost", False), ("stopped", False)])
def test_a_lost_driver_costs_no_retry(end: Any, is_new: bool) -> None:
    operator = Redriven(task_id="job", command=["true"], max_attempts=2)
    assert conclude(Outcome(end, "r", "why"), operator, is_new=is_new, num_lost=1) == ("driven again", 2)
    with pytest.raises(AirflowException):
        conclude(Outcome(end, "r", "why"), operator, is_new=is_new, num_lost=2)


async def test_a_kill_in_the_middle_of_an_event_loop_stops_the_job() -> None:
    fake = FakeRay()
    fake.put("r-a0", "RUNNING")
    operator = RayJobOperator(task_id="job", command=["true"])

    async def killed() -> None:
        operator.on_kill()

    async with fake.served() as url:
        await killed()
        assert fake.asked == []
        operator._submission_id, operator._ray = "r-a0", Endpoint(url, "everloop_ray", TOKEN)
        await asyncio.to_thread(lambda: asyncio.run(killed()))
    assert fake.jobs["r-a0"]["status"] == "STOPPED"


def test_the_command_of_a_round_is_data() -> None:
    operator = RayPipelineOperator(
        task_id="run",
        recipe="nano; rm -rf /",
        storage="s3://b/p?x=1&y=2",
        overrides='["train.max_steps=5"]',
        source="schedule",
        window="a; b",
    )
    assert operator.argv() == [
        *("python", "-m", "workflows.run", "--run-id", RUN_ID, "--recipe", "nano; rm -rf /"),
        *("--set", "train.max_steps=5", "--source", "schedule", "--window", "a; b"),
        *("--storage", "s3://b/p?x=1&y=2", "--json"),
    ]


NIGHT = datetime(2026, 1, 2, 3, tzinfo=UTC)
INTERVAL = "2026-01-01T03:00:00+00:00/2026-01-02T03:00:00+00:00"


@pytest.mark.parametrize(
    ("run_type", "interval", "asked"),
    [
        (DagRunType.SCHEDULED, (NIGHT - timedelta(days=1), NIGHT), ("schedule", INTERVAL)),
        (DagRunType.ASSET_TRIGGERED, (None, None), ("schedule", "the-dag-run")),
        (DagRunType.MANUAL, (NIGHT, NIGHT), ("manual", "the-dag-run")),
    ],
)  # fmt: skip
def test_the_data_interval_is_the_cause_of_a_scheduled_round_and_a_press_of_the_button_its_own(
    run_type: DagRunType, interval: tuple[datetime | None, datetime | None], asked: tuple[str, str]
) -> None:
    operator = RayPipelineOperator(task_id="run", recipe="nano", storage="file:///s")
    dag_run = SimpleNamespace(
        run_type=run_type, run_id="the-dag-run", data_interval_start=interval[0], data_interval_end=interval[1]
    )
    operator.render_template_fields({"dag_run": dag_run}, jinja_env=SandboxedEnvironment(cache_size=0))
    assert (operator.source, operator.window) == asked


class Ti:
    """As much of a task instance as a submission needs."""

    dag_id, task_id, run_id = "d", "job", "x"


async def submitted(fake: FakeRay, operator: RayJobOperator, monkeypatch: pytest.MonkeyPatch) -> Attempt | Outcome:
    """Finds or submits, with both connections at the fake."""
    async with fake.served() as url:

        async def find() -> Endpoint:
            return Endpoint(url, "everloop_ray", TOKEN)

        monkeypatch.setattr("everloop.operator.find_by", lambda _: find)
        return await operator._find_or_submit(Ti(), "r")


async def test_arguments_reach_ray_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    operator = RayJobOperator(task_id="job", command=["echo", "a b; c", RUN_ID])
    assert await submitted(fake, operator, monkeypatch) == Attempt("r-a0", 0, is_new=True)
    assert fake.submitted[0]["entrypoint"] == "echo 'a b; c' r"


async def test_a_run_that_the_door_knows_is_resumed_with_its_own_config(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    fake.put("r-a0", "FAILED", -9)
    fake.runs["r"] = {"run_id": "r", "status": "running"}
    operator = RayPipelineOperator(task_id="run", recipe="nano", storage="file:///s")
    assert await submitted(fake, operator, monkeypatch) == Attempt("r-a1", 1, is_new=True)
    assert fake.submitted[0]["entrypoint"] == "python -m workflows.run --resume r --storage file:///s --json"


async def test_a_run_that_has_succeeded_is_not_submitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    fake.runs["r"] = {"run_id": "r", "status": "succeeded"}
    operator = RayPipelineOperator(task_id="run", recipe="nano", storage="file:///s")
    found = await submitted(fake, operator, monkeypatch)
    assert isinstance(found, Outcome)
    assert found.end == "succeeded"
    assert fake.submitted == []


@pytest.mark.parametrize("door", ["everloop_door", None])
async def test_a_task_that_was_skipped_asks_again_once_it_is_cleared(
    door: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeRay()
    fake.put("r-a0", "SUCCEEDED")  # it said that the run was suppressed
    operator = RayPipelineOperator(task_id="run", recipe="nano", storage="file:///s", door_conn_id=door)
    found = await submitted(fake, operator, monkeypatch)
    # Without a door nobody knows but the job, and what that did may not be done twice.
    assert found == (Attempt("r-a1", 1, is_new=True) if door else Attempt("r-a0", 0, is_new=False))
    assert len(fake.submitted) == (1 if door else 0)


async def test_any_other_command_that_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    fake.put("r-a0", "SUCCEEDED")
    operator = RayJobOperator(task_id="job", command=["true"], door_conn_id="everloop_door")
    assert await submitted(fake, operator, monkeypatch) == Attempt("r-a0", 0, is_new=False)
    assert fake.submitted == []


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.stem)
def test_a_dag_file_imports_in_a_second_without_ray(file: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; sys.modules['ray'] = None; sys.path.append(sys.argv[2]); import airflow.sdk, httpx\n"
        "from airflow.sdk import DAG, Param, task\n"
        "import runpy; began = time.perf_counter(); runpy.run_path(sys.argv[1]); print(time.perf_counter() - began)"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    plugins = str(REPOSITORY / "airflow" / "plugins")

    def took_s() -> float:
        done = subprocess.run(
            [sys.executable, "-c", program, str(file), plugins],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout.splitlines()[-1])

    ends_at = time.monotonic() + 60
    while (last := took_s()) >= 1.0:
        assert time.monotonic() < ends_at, f"{last:.2f} s"
