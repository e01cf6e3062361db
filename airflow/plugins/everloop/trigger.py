"""Waits in the triggerer for the end of a run: no worker slot is held, and nothing kept that a restart could lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from everloop.connections import find_by
from everloop.follow import Patience, Watch, stop

STOP_TIMEOUT_S = 25.0
"""Airflow gives `on_kill` 30 s."""


class RayJobTrigger(BaseTrigger):
    """Fires when a job, and the run behind it, has ended.

    Args:
        submission_id: The job.
        workflow: The run that it drives.
        ray_conn_id: Connection to Ray's dashboard. The row in the database holds this name, never a token.
        door_conn_id: Connection to the door, or None.
        poll_s: Pause between two looks.
        unreachable_timeout_s: How long silence is borne.
    """

    def __init__(
        self,
        *,
        submission_id: str,
        workflow: str,
        ray_conn_id: str,
        door_conn_id: str | None,
        poll_s: float,
        unreachable_timeout_s: float,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's
        self.submission_id = submission_id
        self.workflow = workflow
        self.ray_conn_id = ray_conn_id
        self.door_conn_id = door_conn_id
        self.poll_s = poll_s
        self.unreachable_timeout_s = unreachable_timeout_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the triggerer makes it of again."""
        return "everloop.trigger.RayJobTrigger", {
            "submission_id": self.submission_id,
            "workflow": self.workflow,
            "ray_conn_id": self.ray_conn_id,
            "door_conn_id": self.door_conn_id,
            "poll_s": self.poll_s,
            "unreachable_timeout_s": self.unreachable_timeout_s,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: an `Outcome` as plain data."""
        patience = Patience(poll_s=self.poll_s, unreachable_timeout_s=self.unreachable_timeout_s)
        door = find_by(self.door_conn_id) if self.door_conn_id else None
        watch = Watch(find_by(self.ray_conn_id), door, patience, self.log)
        # Not at once: Airflow 3.3 takes a task for failed, and spends a retry, if a trigger fires before the scheduler
        # has heard that the worker deferred it.
        await asyncio.sleep(patience.pause_s())
        outcome = await watch.outcome(self.submission_id, self.workflow)
        yield TriggerEvent(outcome.dump())  # type: ignore[no-untyped-call]  # Airflow's

    async def on_kill(self) -> None:
        """Stops the job, because a person cleared or marked the task.

        Not in `cleanup`: that runs with each restart of the triggerer too, and the job must outlive those.
        """
        state = await stop(find_by(self.ray_conn_id), self.submission_id, timeout_s=STOP_TIMEOUT_S)
        self.log.info("Job %s is %s", self.submission_id, state)
