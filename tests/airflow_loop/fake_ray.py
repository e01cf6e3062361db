"""Ray's Jobs API and the door, as far as the operator uses them, without a cluster: in memory, or over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from everloop.errors import BadRequest, Unreachable

TOKEN = "token-of-the-fake"


@dataclass
class FakeRay:
    """Jobs by id, each with `status`, `driver_exit_code`, `message` and `logs`.

    Attributes:
        jobs: What there is.
        runs: Answers of the door.
        submitted: Bodies of all jobs that were taken.
        asked: Method and path of each request.
        before: Called with method and path before each answer; may change what is there, or answer in its place.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], web.Response | None] = lambda _method, _path: None
    what: str = "Ray"

    def put(self, submission_id: str, status: str, exit_code: int | None = None, logs: str = "") -> None:
        """Sets a job."""
        self.jobs[submission_id] = {"status": status, "driver_exit_code": exit_code, "message": "", "logs": logs}

    def answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        """Status, and JSON or text."""
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["v1", "runs", run_id]:
                return (200, self.runs[run_id]) if run_id in self.runs else (404, "no such run")
            case "POST", ["api", "jobs"]:
                assert body is not None, "a submission has a body"
                if body["submission_id"] in self.jobs:
                    return 400, f"ValueError: Job with submission_id {body['submission_id']} already exists."
                self.put(body["submission_id"], "PENDING")
                self.submitted.append(dict(body))
                return 200, {"submission_id": body["submission_id"]}
            case _, ["api", "jobs", job_id, *rest] if job_id in self.jobs:
                job = self.jobs[job_id]
                if rest == ["logs"]:
                    return 200, {"logs": job["logs"]}
                if rest == ["stop"]:
                    job["status"] = "STOPPED" if job["status"] in ("PENDING", "RUNNING") else job["status"]
                    return 200, {"stopped": True}
                return 200, {key: value for key, value in job.items() if key != "logs"}
        return 404, f"Job {parts[-1]} does not exist"

    async def ask(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Stands in for `everloop.http.Http`, for tests that need no HTTP."""
        self.asked.append((method, path))
        self.before(method, path)
        return self.answer(method, path, body)

    def unusable(self, status: int, text: str) -> Exception:
        """As `everloop.http.Http` does."""
        return Unreachable(self.what, text) if status >= 500 else BadRequest(self.what, status, text)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Over HTTP; gives its base URL."""

        async def handle(request: web.Request) -> web.Response:
            self.asked.append((request.method, request.path))
            if (instead := self.before(request.method, request.path)) is not None:
                return instead
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return web.Response(status=401 if "authorization" not in request.headers else 403, text="no")
            body = await request.json() if request.can_read_body else None
            status, told = self.answer(request.method, request.path, body)
            text = told if isinstance(told, str) else json.dumps(told)
            return web.Response(status=status, text=text)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
