"""What a service is to `up`, `status` and `down`, and the kind that most of them are: one process of ours."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from workflows.engine.processes import end
from workflows.services import process
from workflows.services.errors import NotHealthy, PortTaken, ProgramMissing
from workflows.services.site import PROJECT, Site

_POLL_S = 0.2
_REQUEST_TIMEOUT_S = 5.0

State = Literal["stopped", "starting", "healthy", "unhealthy", "died", "foreign"]


@dataclass(frozen=True, slots=True)
class Status:
    """How a service is.

    Attributes:
        name: Of the service.
        state: `died` runs no more although nobody stopped it; `foreign` is a stranger on its port.
        pid: Its process, or None.
        port: Its port, or None.
        memory_bytes: Proportional set size of all its processes.
        up_s: Seconds since it was started.
        detail: What is wrong, in a line.
    """

    name: str
    state: State
    pid: int | None = None
    port: int | None = None
    memory_bytes: int = 0
    up_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a process is started.

    Attributes:
        command: Program and arguments.
        environment: On top of what every program gets.
        settings: Files by path that are part of what it was started with.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Sequence[Path] = ()

    def digest(self) -> str:
        """SHA-256 over all of it: tells whether a running process was started with other settings."""
        told = [
            list(self.command),
            dict(self.environment),
            [path.read_text(encoding="utf-8") for path in self.settings],
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class Service(ABC):
    """A service of a site.

    Attributes:
        name: As on the command line and in the state folder.
        after: Services that must be healthy before it starts.
        port: Name of its port in `[ports]`, or None.
    """

    name: str
    after: tuple[str, ...] = ()
    port: str | None = None

    def __init__(self, site: Site) -> None:
        self.site = site
        self.folder = site.folder(self.name)

    @abstractmethod
    def up(self) -> Literal["left", "started", "restarted"]:
        """Has it run, healthy and set up; says what was done.

        Raises:
            ServicesError: It does not.
        """

    @abstractmethod
    def down(self) -> bool:
        """Ends it. False: nothing was running."""

    @abstractmethod
    def status(self) -> Status:
        """How it is now."""

    @abstractmethod
    def has_died(self) -> bool:
        """Whether it was started, not stopped, and runs no more. Cheap, for the watch asks all the time."""

    def missing(self) -> str:
        """Why it cannot run on this machine at all; empty if it can."""
        return ""


class Daemon(Service):
    """A service that is one process of ours, with its children."""

    port_advice = ""

    @abstractmethod
    def launch(self) -> Launch:
        """Writes its settings and says how it is started."""

    @abstractmethod
    def problem(self) -> str:
        """What keeps it from being healthy; empty if it is."""

    def set_up(self) -> None:
        """Tells a healthy process what it needs to know; every `up` tells it again."""

    def up(self) -> Literal["left", "started", "restarted"]:
        launch = self.launch()
        found = process.recorded(self.folder)
        done: Literal["left", "started", "restarted"] = "started"
        if found is not None and found.alive():
            if found.digest == launch.digest():
                done = "left"
            else:
                end({found.pid: found.started}, self.site.config.waits.stop_s)
                done = "restarted"
        if done != "left":
            self._free_ports()
            environment = self.site.environment(launch.environment)
            found = process.start(launch.command, environment, self.folder, cwd=PROJECT, digest=launch.digest())
        assert found is not None, "left or started"
        self._await_health(found)
        self.set_up()
        return done

    def down(self) -> bool:
        return process.stop(self.folder, self.site.config.waits.stop_s)

    def has_died(self) -> bool:
        found = process.recorded(self.folder)
        return found is not None and not found.alive()

    def status(self) -> Status:
        found = process.recorded(self.folder)
        port = getattr(self.site.config.ports, self.port) if self.port else None
        if found is None:
            holder = process.port_holder(port) if port else None
            if holder is None:
                return Status(self.name, "stopped", port=port)
            return Status(self.name, "foreign", port=port, detail=f"the port is taken by {process.describe(holder)}")
        if not found.alive():
            last = process.log_tail(self.folder, lines=1)
            return Status(self.name, "died", port=port, detail=f"process {found.pid} is gone; its log ends: {last}")
        problem = self.problem()
        memory = process.memory_bytes([found.pid, *(pid for pid in process.members(self.folder) if pid != found.pid)])
        state: State = "unhealthy" if problem else "healthy"
        return Status(self.name, state, found.pid, port, memory, time.time() - found.at, problem)

    def _ports(self) -> Sequence[int]:
        return [getattr(self.site.config.ports, self.port)] if self.port else []

    def _free_ports(self) -> None:
        """Ends what an earlier start of this service left on its ports; a stranger there is an error."""
        for port in self._ports():
            holder = process.port_holder(port)
            if holder is None:
                continue
            ours = process.members(self.folder)
            if holder not in ours:
                raise PortTaken(self.name, port, process.describe(holder), self.port_advice)
            end(ours, self.site.config.waits.stop_s)

    def _await_health(self, started: process.Started) -> None:
        deadline = time.monotonic() + self.site.config.waits.healthy_s
        while (problem := self.problem()) and time.monotonic() < deadline:
            if not started.alive():
                raise NotHealthy(self.name, "ended while it started", process.log_tail(self.folder))
            time.sleep(_POLL_S)
        if problem:
            reason = f"was not healthy after {self.site.config.waits.healthy_s:.0f} s ({problem})"
            raise NotHealthy(self.name, reason, process.log_tail(self.folder))
        if not started.alive():  # A stranger may have answered in its place.
            raise NotHealthy(self.name, "ended while it started", process.log_tail(self.folder))


def answers(url: str, *, headers: Mapping[str, str] | None = None) -> str:
    """Empty if a URL answers with 2xx, else what it says."""
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - our own loopback addresses
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers {error.code}"
    except (OSError, ValueError) as error:
        return f"{url} does not answer: {getattr(error, 'reason', error)}"


def program(service: str, name: str, advice: str, *places: str | None) -> str:
    """The path of a program: the first of the places that is one, else from PATH.

    Raises:
        ProgramMissing: There is none.
    """
    for place in places:
        if place and Path(place).is_file():
            return place
    found = shutil.which(name)
    if found is None:
        raise ProgramMissing(service, name, advice)
    return found


def write_if_changed(path: Path, text: str) -> Path:
    """Writes a file of settings, and leaves one alone that says the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        if path.read_text(encoding="utf-8") == text:
            return path
    path.write_text(text, encoding="utf-8")
    return path
