"""Our Ray head: the one that runs attach to, because it is recorded in `<state>/ray.json`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from steps.deploy.converge import ENDPOINT_KEY
from workflows.engine import head as ray_head
from workflows.engine.processes import descendants
from workflows.log import AlreadyExists, open_store
from workflows.services import process
from workflows.services.config import HOST
from workflows.services.errors import NotHealthy
from workflows.services.principals_file import write_principals
from workflows.services.secret_file import RUNNER
from workflows.services.service import Service, Status, answers

_STARTUP_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_URI",
    "EVERLOOP_STATE",
)


class RayHead(Service):
    """The Ray head. Its workers inherit what a run needs: the storage's credentials and the tracking server."""

    name = "ray"

    @property
    def after(self) -> tuple[str, ...]:  # type: ignore[override]
        """The storage, for the port of the endpoint is reserved there."""
        return ("minio",)

    def up(self) -> Literal["left", "started", "restarted"]:
        found = ray_head.find(self.site.state)
        done: Literal["left", "started", "restarted"] = "left"
        write_principals(self.site)
        with environment(self.site.loop_environment(RUNNER)):
            if found is not None and self._stale(found):
                ray_head.stop(self.site.state)
                found, done = None, "restarted"
            if found is None:
                ray_head.start(self.site.state, dashboard=True)
                done = "started" if done == "left" else done
            reserve_endpoint(self.site.storage, self.site.config.ports.endpoint)
        deadline = time.monotonic() + self.site.config.waits.healthy_s
        while (problem := self._problem()) and time.monotonic() < deadline:
            time.sleep(0.2)
        if problem:
            raise NotHealthy(self.name, problem, "")
        return done

    def down(self) -> bool:
        return ray_head.stop(self.site.state)

    def has_died(self) -> bool:
        return (self.site.state / "ray.json").exists() and ray_head.find(self.site.state) is None

    def status(self) -> Status:
        found = ray_head.find(self.site.state)
        if found is None:
            if self.has_died():
                return Status(self.name, "died", detail="its processes are gone")
            return Status(self.name, "stopped")
        own = [int(pid) for pid in found.processes]
        pids = [*own, *(pid for pid in descendants(own) if pid not in own)]
        port = urlsplit(found.dashboard).port if found.dashboard else None
        problem = self._problem()
        up_s = time.time() - (self.site.state / "ray.json").stat().st_mtime
        memory = process.memory_bytes(pids)
        pid = min(own)
        return Status(self.name, "unhealthy" if problem else "healthy", pid, port, memory, up_s, problem)

    def _problem(self) -> str:
        found = ray_head.find(self.site.state)
        if found is None:
            return "it does not run"
        if not found.dashboard:
            return ""
        with suppress(OSError):
            token = Path(found.token_file).read_text(encoding="ascii").strip()
            return answers(f"{found.dashboard}/api/version", headers={"authorization": f"Bearer {token}"})
        return f"{found.token_file} cannot be read"

    def _stale(self, found: ray_head.Head) -> bool:
        """Whether it was started for others: without an interface for jobs, or to find other services."""
        if not found.dashboard:
            return True
        wanted = self.site.loop_environment(RUNNER)
        for pid in found.processes:
            with suppress(OSError):
                entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                seen = dict(entry.decode("utf-8", "replace").split("=", 1) for entry in entries if b"=" in entry)
                return any(seen.get(name) != wanted.get(name) for name in _STARTUP_VARIABLES if name in wanted)
        return False


def reserve_endpoint(storage: str, port: int) -> None:
    """Has Serve listen on a known port, unless the storage has an endpoint already."""
    with suppress(AlreadyExists):
        url = f"http://{HOST}:{port}"
        open_store(storage).create(ENDPOINT_KEY, json.dumps({"url": url, "port": port}).encode())


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process for a while: what is started or opened meanwhile sees them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
