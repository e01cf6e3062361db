"""Watches a job until it ends, and the run behind it where the job ends first. Keeps nothing: it may begin anew
anywhere, in another process."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

from everloop.door import Door
from everloop.endpoint import Endpoint
from everloop.errors import Refused, Unreachable
from everloop.http import Http
from everloop.outcomes import Follow, Outcome, is_abandoned, judge_job, judge_run
from everloop.ray_jobs import Job, RayJobs

Find = Callable[[], Awaitable[Endpoint]]
"""Says where a neighbour is now; asked again after each silence, for it may have moved."""

T = TypeVar("T")
STOP_POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often is asked, and how long silence is borne.

    Attributes:
        poll_s: Between two looks, give or take a quarter.
        unreachable_timeout_s: After this time without one usable answer the watch ends.
        abandoned_timeout_s: After this time in which nobody drives the run that is followed, it is to be driven again.
            The reconciler, where there is one, is faster.
    """

    poll_s: float = 10.0
    unreachable_timeout_s: float = 600.0
    abandoned_timeout_s: float = 60.0

    def pause_s(self) -> float:
        """The next pause: many watchers must not ask at the same moment."""
        return self.poll_s * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, guards nothing


class Log(Protocol):
    """As much of a logger as is used; Airflow's own is none of the standard library's."""

    def info(self, msg: str, /, *args: object) -> object:
        """Tells of a change."""

    def warning(self, msg: str, /, *args: object) -> object:
        """Tells of a trouble."""


class _Silent(Exception):
    """Nobody answered for too long."""


class Watch:
    """Watches one job, and the run behind it.

    Args:
        find_ray: Where Ray's dashboard is.
        find_door: Where the door is; None if there is none.
        patience: How often and how long.
        log: Where changes are told.
    """

    def __init__(self, find_ray: Find, find_door: Find | None, patience: Patience, log: Log) -> None:
        self._find_ray, self._find_door, self._patience, self._log = find_ray, find_door, patience, log

    async def outcome(self, submission_id: str, workflow: str) -> Outcome:
        """Returns when the run has ended, as far as anybody can say."""
        try:
            found = await self._job_ended(submission_id, workflow)
            if isinstance(found, Outcome):
                return found
            if self._find_door is None:
                told = f"run {found.run_id} {found.reason}, and there is no connection to the door to follow it by"
                return Outcome("refused", found.run_id, told)
            self._log.info("Following run %s through the door: %s", found.run_id, found.reason)
            return await self._run_ended(found, self._find_door, workflow)
        except _Silent as silence:
            return Outcome("unreachable", workflow, str(silence))
        except Refused as refusal:
            return Outcome("refused", workflow, str(refusal))

    async def _job_ended(self, submission_id: str, workflow: str) -> Outcome | Follow:
        state = ""

        async def look(http: Http) -> Outcome | Follow | None:
            nonlocal state
            jobs = RayJobs(http)
            job = await jobs.get(submission_id)
            if job is None:
                return Outcome("lost", workflow, f"this cluster does not know job {submission_id}")
            if job.state != state:
                self._log.info("Job %s is %s", submission_id, job.state)
                state = job.state
            return None if job.active else await self._judged(jobs, job, workflow)

        return await self._until("Ray", self._find_ray, look)

    async def _judged(self, jobs: RayJobs, job: Job, workflow: str) -> Outcome | Follow:
        logs = await jobs.logs(job.submission_id)
        return judge_job(job.state, job.exit_code, job.message, logs, workflow)

    async def _run_ended(self, following: Follow, find_door: Find, workflow: str) -> Outcome:
        run_id = following.run_id
        driven_at = time.monotonic()

        async def look(http: Http) -> Outcome | None:
            nonlocal driven_at
            run = await Door(http).run(run_id)
            if run is None:
                return Outcome("refused", run_id, f"the door knows no run {run_id}")
            # Whoever drives another run, into which this one was merged, looks after it.
            if run_id != workflow or not is_abandoned(run):
                driven_at = time.monotonic()
            if (abandoned_s := time.monotonic() - driven_at) > self._patience.abandoned_timeout_s:
                return Outcome("killed", run_id, f"nobody drives run {run_id} for {abandoned_s:.0f} s")
            return judge_run(run, run_id)

        return await self._until("the door", find_door, look)

    async def _until(self, what: str, find: Find, look: Callable[[Http], Awaitable[T | None]]) -> T:
        """Looks until there is something to see."""
        heard_at = time.monotonic()
        silent = False
        while True:
            try:
                async with AsyncExitStack() as stack:
                    http = await stack.enter_async_context(Http(what, await find()))
                    while True:
                        found = await look(http)
                        heard_at = time.monotonic()
                        if silent:
                            self._log.info("%s answers again", what)
                            silent = False
                        if found is not None:
                            return found
                        await asyncio.sleep(self._patience.pause_s())
            except Unreachable as error:
                silent_s = time.monotonic() - heard_at
                if silent_s > self._patience.unreachable_timeout_s:
                    raise _Silent(f"{error}; for {silent_s:.0f} s") from error
                if not silent:
                    self._log.warning("%s; asking on for %.0f s", error, self._patience.unreachable_timeout_s)
                    silent = True
            await asyncio.sleep(self._patience.pause_s())


async def stop(find_ray: Find, submission_id: str, *, timeout_s: float) -> str:
    """Stops a job and waits until it has ended; gives its last known state.

    Raises:
        Refused: A wrong token.
        Unreachable: Nobody answered until the time was over.
        TimeoutError: It has not ended in time.
    """
    async with asyncio.timeout(timeout_s), Http("Ray", await find_ray(), timeout_s=timeout_s / 2) as http:
        jobs = RayJobs(http)
        while True:
            await jobs.stop(submission_id)
            job = await jobs.get(submission_id)
            if job is None or not job.active:
                return job.state if job else "unknown"
            await asyncio.sleep(STOP_POLL_S)
