"""Runs a command as a Ray job, once, however often the task itself is begun."""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from everloop.attempts import Attempt, TooManyAttempts, attach
from everloop.connections import find_by
from everloop.door import Door
from everloop.endpoint import Endpoint
from everloop.errors import EverloopError, Refused, Unreachable
from everloop.follow import stop
from everloop.http import Http
from everloop.identity import workflow_id
from everloop.outcomes import Outcome, judge_run
from everloop.ray_jobs import RayJobs
from everloop.trigger import STOP_TIMEOUT_S, RayJobTrigger

RUN_ID = "{run_id}"
"""Stands in a command for the id of the run, which is derived from the task."""

SOURCE = "{{ 'manual' if dag_run.run_type == 'manual' else 'schedule' }}"
"""Who asks the loop: whoever presses the button, else the schedule, which rests and has a budget."""

WINDOW = (
    "{{ dag_run.data_interval_start.isoformat() ~ '/' ~ dag_run.data_interval_end.isoformat()"
    " if dag_run.run_type == 'scheduled' and dag_run.data_interval_start else dag_run.run_id }}"
)
"""What it is asked for: the data interval, or where there is none the DAG run. One run of the loop each."""

SUBMIT_TIMEOUT_S = 60.0
SUBMIT_PAUSE_S = 2.0


class RayJobOperator(BaseOperator):
    """A command as a Ray job, waited for without a worker slot.

    The id of the run is derived before anything is submitted and is the same for each retry and clear; so whoever
    begins the task again finds the job that is there. A job whose driver or cluster died is followed by another one,
    which costs no retry of the task. Clearing the task, or marking it, stops the job.

    Args:
        command: The driver's command, one argument an item; `RUN_ID` in it becomes the id of the run.
        ray_conn_id: Connection to Ray's dashboard: host, port and the token as password, or the extra `head`.
        door_conn_id: Connection to the door, by which runs are followed that outlive their job; None for commands
            that drive no run.
        env_vars: For the driver. Nothing secret: what is here is shown in Airflow and in Ray's dashboard.
        max_attempts: How many jobs there may be for one run, over all retries and clears.
        poll_s: Pause between two looks at the job.
        unreachable_timeout_s: How long Ray or the door may be silent before the task fails (and may be retried).
    """

    template_fields: Sequence[str] = ("command", "env_vars")
    ui_color = "#dbe9f6"
    # Whether a job that is done has left a run that the door knows. Any other command is done once.
    leaves_a_run = False

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        ray_conn_id: str = "everloop_ray",
        door_conn_id: str | None = None,
        env_vars: Mapping[str, str] | None = None,
        max_attempts: int = 20,
        poll_s: float = 10.0,
        unreachable_timeout_s: float = 600.0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.command = list(command)
        self.ray_conn_id = ray_conn_id
        self.door_conn_id = door_conn_id
        self.env_vars = dict(env_vars or {})
        self.max_attempts = max_attempts
        self.poll_s = poll_s
        self.unreachable_timeout_s = unreachable_timeout_s
        self._submission_id = ""
        self._ray: Endpoint | None = None

    def argv(self) -> list[str]:
        """The command, after its templates were filled in."""
        return [str(argument) for argument in self.command]

    def resume_argv(self) -> list[str]:
        """The command that goes on with a run that the door knows; by default the same."""
        return self.argv()

    def execute(self, context: Any) -> Any:
        """Finds or submits the job, and hands the wait to the triggerer."""
        ti = context["ti"]
        workflow = workflow_id(ti.dag_id, ti.task_id, ti.run_id, ti.map_index if ti.map_index is not None else -1)
        ti.xcom_push(key="run_id", value=workflow)
        return self._drive(context, workflow)

    def conclude(
        self, context: Any, event: Mapping[str, Any], workflow: str, number: int, is_new: bool, num_lost: int
    ) -> Any:
        """Takes the outcome from the triggerer."""
        outcome = Outcome.load(event)
        # A clear stops the job while the next try may already hold on to it: that stop was not meant for this try.
        goes_on = outcome.end in ("killed", "lost") or (outcome.end == "stopped" and not is_new)
        if goes_on and num_lost < self.max_attempts:
            self.log.warning("Attempt %d: %s (%s); going on with another one", number, outcome.end, outcome.reason)
            return self._drive(context, workflow, num_lost + 1)
        return self._give(outcome)

    def on_kill(self) -> None:
        """Stops the job, if the task is killed before it is handed to the triggerer."""
        if not self._submission_id or self._ray is None:
            return
        submission_id, known = self._submission_id, self._ray

        async def find() -> Endpoint:
            return known

        def stop_it() -> None:
            try:
                asyncio.run(stop(find, submission_id, timeout_s=STOP_TIMEOUT_S))
            except (EverloopError, TimeoutError) as error:
                self.log.warning("Job %s may go on: %s", submission_id, error)

        # Airflow calls this in a signal handler: this thread may be inside an event loop, or half way through a
        # request to its supervisor. So another thread does it, with the endpoint that is known.
        stopping = threading.Thread(target=stop_it, daemon=True)
        stopping.start()
        stopping.join(STOP_TIMEOUT_S)

    def _drive(self, context: Any, workflow: str, num_lost: int = 0) -> Any:
        try:
            found = asyncio.run(self._find_or_submit(context["ti"], workflow))
        except (Refused, TooManyAttempts, ValueError) as error:
            raise AirflowFailException(str(error)) from error
        except EverloopError as error:
            raise AirflowException(str(error)) from error
        if isinstance(found, Outcome):
            return self._give(found)
        self._submission_id = found.submission_id
        self.log.info("Job %s (%s)", found.submission_id, "submitted" if found.is_new else "was there")
        return self.defer(
            trigger=RayJobTrigger(
                submission_id=found.submission_id,
                workflow=workflow,
                ray_conn_id=self.ray_conn_id,
                door_conn_id=self.door_conn_id,
                poll_s=self.poll_s,
                unreachable_timeout_s=self.unreachable_timeout_s,
            ),
            method_name="conclude",
            kwargs={"workflow": workflow, "number": found.number, "is_new": found.is_new, "num_lost": num_lost},
        )

    async def _find_or_submit(self, ti: Any, workflow: str) -> Attempt | Outcome:
        metadata = {"airflow_dag": ti.dag_id, "airflow_task": ti.task_id, "airflow_run": ti.run_id}
        deadline = time.monotonic() + min(SUBMIT_TIMEOUT_S, self.unreachable_timeout_s)
        is_told, status = await self._run_status(workflow)
        if status is not None and (known := judge_run(status, workflow)) is not None and known.end != "failed":
            return known
        argv = self.argv() if status is None else self.resume_argv()
        entrypoint = shlex.join([argument.replace(RUN_ID, workflow) for argument in argv])
        while True:
            try:
                self._ray = await find_by(self.ray_conn_id)()
                async with Http("Ray", self._ray) as http:
                    return await attach(
                        RayJobs(http),
                        workflow,
                        entrypoint,
                        max_attempts=self.max_attempts,
                        env_vars=self.env_vars,
                        metadata=metadata,
                        has_failed=status is not None and status["status"] == "failed",
                        never_began=self.leaves_a_run and is_told and status is None,
                    )
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise
                self.log.warning("%s; trying on", error)
                await asyncio.sleep(SUBMIT_PAUSE_S)

    async def _run_status(self, workflow: str) -> tuple[bool, Mapping[str, Any] | None]:
        """Whether the door is there to say so, and where the run stands by its own log; None: there is no such run."""
        if self.door_conn_id is None:
            return False, None
        try:
            async with Http("the door", await find_by(self.door_conn_id)()) as http:
                return True, await Door(http).run(workflow)
        except Unreachable as error:
            self.log.warning("%s; going by Ray alone", error)
            return False, None

    def _give(self, outcome: Outcome) -> Any:
        match outcome.end:
            case "succeeded":
                self.log.info("Run %s succeeded", outcome.run_id)
                return outcome.result
            case "suppressed":
                raise AirflowSkipException(outcome.reason)
            case "stopped" | "refused":
                raise AirflowFailException(outcome.reason)
            case _:
                raise AirflowException(f"{outcome.end}: {outcome.reason}")


class RayPipelineOperator(RayJobOperator):
    """One round of the loop: `python -m workflows.run` as a Ray job.

    Gives the run's summary as JSON. A run that waits for a person is followed until it ends, and so is a run that this
    one was merged into; a run that admission suppresses leaves the task skipped, with the reason; clearing that
    task asks again.

    Args:
        recipe: A config by name.
        storage: Storage URI of the loop, as the cluster sees it.
        overrides: `section.key=value` items, or a JSON list of them (for templates).
        python: The interpreter on the cluster.
        source: `schedule` or `manual`.
        window: What the run is asked for: one window, one run.
    """

    template_fields: Sequence[str] = ("recipe", "storage", "overrides", "python", "source", "window", "env_vars")
    leaves_a_run = True

    def __init__(
        self,
        *,
        recipe: str,
        storage: str,
        overrides: Sequence[str] | str = (),
        python: str = "python",
        source: str = SOURCE,
        window: str = WINDOW,
        door_conn_id: str | None = "everloop_door",
        **arguments: Any,
    ) -> None:
        super().__init__(door_conn_id=door_conn_id, **arguments)
        self.recipe = recipe
        self.storage = storage
        self.overrides = overrides
        self.python = python
        self.source = source
        self.window = window

    def argv(self) -> list[str]:
        """The command of one round."""
        overrides = json.loads(self.overrides or "[]") if isinstance(self.overrides, str) else self.overrides
        changes = [item for change in overrides for item in ("--set", str(change))]
        fixed = [self.python, "-m", "workflows.run", "--run-id", RUN_ID, "--recipe", self.recipe]
        asked = ["--source", self.source, "--window", self.window]
        return [*fixed, *changes, *asked, "--storage", self.storage, "--json"]

    def resume_argv(self) -> list[str]:
        """A run keeps the config that it began with, whatever its recipe says by now."""
        return [self.python, "-m", "workflows.run", "--resume", RUN_ID, "--storage", self.storage, "--json"]
