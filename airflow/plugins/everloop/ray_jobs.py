"""The Ray Jobs REST API, as far as it is needed (Ray 2.60: dashboard/modules/job/job_head.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from everloop.errors import Unreachable

if TYPE_CHECKING:
    from everloop.http import Http

ACTIVE = frozenset({"PENDING", "RUNNING"})
STATES = ACTIVE | {"STOPPED", "SUCCEEDED", "FAILED"}


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job is to do.

    Attributes:
        submission_id: Its id; a second job of that id is refused by Ray.
        entrypoint: Shell command of its driver.
        env_vars: What its driver and their workers see beside the environment of the head.
        metadata: Shown in the dashboard.
    """

    submission_id: str
    entrypoint: str
    env_vars: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Ray tells it.

    Attributes:
        state: One of `STATES`.
        exit_code: Of the driver, if it ended by itself.
        message: Ray's words.
    """

    submission_id: str
    state: str
    exit_code: int | None
    message: str

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state in ACTIVE


class RayJobs:
    """Jobs of one Ray cluster. Every method raises `Unauthorized` and `Unreachable`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def get(self, submission_id: str) -> Job | None:
        """The job, or None if this cluster does not know it."""
        status, answer = await self._http.ask("GET", f"/api/jobs/{submission_id}")
        if status == 404 and "does not exist" in answer:
            return None
        if status == 404:
            raise Unreachable(self._http.what, "HTTP 404, which is not Ray's")
        if status >= 400:
            raise self._http.unusable(status, answer)
        if not isinstance(answer, dict) or answer.get("status") not in STATES:
            raise Unreachable(self._http.what, "no state of a job")
        return Job(submission_id, answer["status"], answer.get("driver_exit_code"), answer.get("message") or "")

    async def submit(self, request: JobRequest) -> bool:
        """Submits a job. False: one of that id was there.

        Raises:
            BadRequest: Ray does not understand the request.
        """
        body: dict[str, Any] = {
            "submission_id": request.submission_id,
            "entrypoint": request.entrypoint,
            "runtime_env": {"env_vars": dict(request.env_vars)} if request.env_vars else {},
            "metadata": dict(request.metadata),
        }
        status, answer = await self._http.ask("POST", "/api/jobs/", body=body)
        if status < 400:
            return True
        # The job agent says 400; what the dashboard makes of it depends on the version (500 where it wraps the agent).
        if "already exists" in answer:
            return False
        raise self._http.unusable(status, answer)

    async def stop(self, submission_id: str) -> None:
        """Asks a job to stop; one that has ended or is unknown is left as it is."""
        status, answer = await self._http.ask("POST", f"/api/jobs/{submission_id}/stop")
        if status >= 400 and status != 404:
            raise self._http.unusable(status, answer)

    async def logs(self, submission_id: str) -> str:
        """What the driver wrote."""
        status, answer = await self._http.ask("GET", f"/api/jobs/{submission_id}/logs")
        if status >= 400:
            raise self._http.unusable(status, answer)
        return str(answer.get("logs") or "") if isinstance(answer, dict) else ""
