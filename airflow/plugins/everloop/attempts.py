"""Which job drives the run: the one that is there, or the next one. Safe to repeat after a crash anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from everloop.errors import EverloopError
from everloop.identity import submission_id
from everloop.outcomes import WAITING
from everloop.ray_jobs import Job, JobRequest, RayJobs


class TooManyAttempts(EverloopError):
    """Every attempt that the task may make has ended badly."""

    def __init__(self, workflow: str, max_attempts: int) -> None:
        super().__init__(f"run {workflow}: all {max_attempts} attempts (max_attempts) ended without success")
        self.workflow, self.max_attempts = workflow, max_attempts

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.workflow, self.max_attempts)


@dataclass(frozen=True, slots=True)
class Attempt:
    """The job that is to be watched.

    Attributes:
        submission_id: Its id.
        number: Which attempt it is.
        is_new: Whether it was submitted here and now.
    """

    submission_id: str
    number: int
    is_new: bool


async def attach(
    jobs: RayJobs,
    workflow: str,
    entrypoint: str,
    *,
    max_attempts: int,
    env_vars: Mapping[str, str],
    metadata: Mapping[str, str],
    has_failed: bool = False,
    never_began: bool = False,
) -> Attempt:
    """Finds the job of the latest attempt, and submits the next one if that ended badly or there is none.

    The numbers do not order the drivers: after the loss of a cluster they begin anew. What keeps an old driver from
    writing is the epoch that each takes from the run's own log.

    Args:
        jobs: The cluster's jobs.
        workflow: The run.
        entrypoint: What drives it, as a shell command.
        max_attempts: How many jobs there may be.
        env_vars: For the driver.
        metadata: For the dashboard.
        has_failed: Whether the run itself is known to have failed: then a driver that left it waiting is history.
        never_began: Whether it is known that there is no such run: then a driver that is done was told that there was
            not to be one, by a rest or a budget that may be over by now.

    Raises:
        TooManyAttempts: The latest one ended badly and was the last allowed.
    """
    number, latest = await _latest(jobs, workflow, max_attempts)
    if latest is not None and _is_kept(latest, has_failed, never_began):
        return Attempt(latest.submission_id, number, is_new=False)
    if latest is not None:
        number += 1
    if number >= max_attempts:
        raise TooManyAttempts(workflow, max_attempts)
    request = JobRequest(submission_id(workflow, number), entrypoint, env_vars, metadata)
    # False: somebody submitted the very same between our look and our request. It is ours as much as theirs.
    is_new = await jobs.submit(request)
    return Attempt(request.submission_id, number, is_new)


async def _latest(jobs: RayJobs, workflow: str, max_attempts: int) -> tuple[int, Job | None]:
    latest: Job | None = None
    for number in range(max_attempts):
        found = await jobs.get(submission_id(workflow, number))
        if found is None:
            return max(number - 1, 0), latest
        latest = found
    return max_attempts - 1, latest


def _is_kept(job: Job, has_failed: bool, never_began: bool) -> bool:
    """Under way, done, or ended because only waits are left."""
    is_done = job.state == "SUCCEEDED" and not never_began
    return job.active or is_done or (job.exit_code == WAITING and not has_failed)
