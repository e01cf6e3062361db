"""Airflow and n8n: programs with an environment, a start script and a state of their own.

They belong to the set once they are installed: `airflow/start` and `n8n_flows/start install` do that, and so does
`up --only airflow,n8n`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from workflows.engine.claims import start_time
from workflows.engine.head import BROKER_ACCESS_KEY, BROKER_SECRET_KEY
from workflows.services import process
from workflows.services.errors import NotHealthy, PortTaken
from workflows.services.secret_file import write_private
from workflows.services.service import Service, Status, answers
from workflows.services.site import PROJECT
from workflows.services.toml_text import toml_text

_INSTALL_S = 900.0
_AIRFLOW_VARIABLES = ("EVERLOOP_AIRFLOW_VENV", "EVERLOOP_AIRFLOW_DB")
_RUNNERS_PORT_OFFSET = 1
"""n8n's task runners listen on the port after its own."""


class Neighbour(Service):
    """A program behind a start script."""

    after: tuple[str, ...] = ("triggers",)
    script: Path

    @abstractmethod
    def arguments(self) -> Sequence[str]:
        """What the script is given after its command; writes settings first, if there are any."""

    @abstractmethod
    def variables(self) -> Mapping[str, str]:
        """What the script is told by its environment."""

    @abstractmethod
    def problem(self) -> str:
        """What keeps it from being healthy; empty if it is."""

    @abstractmethod
    def components(self) -> Mapping[str, process.Started | None]:
        """Its processes as its script recorded them, by name; None for one that was never started."""

    def processes(self) -> dict[int, int]:
        """Start time by pid of all its processes.

        The mark alone does not find them: a program that gives itself another title may overwrite its environment.
        """
        found = process.members(self.folder)
        for component in self.components().values():
            # Its session outlives it; but a number that leads another process is a stranger's by now.
            if component is not None and start_time(component.pid) in (None, component.started):
                found |= process.session_of(component.pid)
        return found

    def gone(self) -> list[str]:
        """The components that run no more."""
        return [name for name, found in self.components().items() if found is None or not found.alive()]

    def up(self) -> Literal["left", "started", "restarted"]:
        running = self.processes()
        digest = self._digest()
        if running and digest == self._recorded_digest() and not self.gone() and not self.problem():
            return "left"
        port = getattr(self.site.config.ports, self.name)
        holder = process.port_holder(port)
        if holder is not None and holder not in running:
            raise PortTaken(self.name, port, process.describe(holder))
        if running and digest != self._recorded_digest():
            self._run("stop")
        self._run("start")
        told = {"script": str(self.script), "digest": digest}
        (self.folder / "pid").write_text(json.dumps(told), encoding="utf-8")
        if problem := self.problem():
            raise NotHealthy(self.name, problem, process.log_tail(self.folder))
        return "restarted" if running else "started"

    def down(self) -> bool:
        running = self.processes()
        if (self.folder / "pid").exists():
            self._run("stop")
        return process.stop(self.folder, self.site.config.waits.stop_s) or bool(running)

    def has_died(self) -> bool:
        return (self.folder / "pid").exists() and bool(self.gone())

    def status(self) -> Status:
        port = getattr(self.site.config.ports, self.name)
        known = (self.folder / "pid").exists()
        ours = self.processes()
        if not known and not ours:
            return Status(self.name, "stopped", port=port, detail=self.missing())
        if known and (gone := self.gone()):
            return Status(self.name, "died", port=port, detail=f"{', '.join(gone)} gone; see {self.folder}")
        problem = self.problem()
        first = min(ours, key=lambda pid: ours[pid])
        up_s = time.time() - Path(f"/proc/{first}").stat().st_mtime
        memory = process.memory_bytes(list(ours))
        return Status(self.name, "unhealthy" if problem else "healthy", first, port, memory, up_s, problem)

    def _digest(self) -> str:
        """SHA-256 over what its script is told: a changed setting gives another one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = list(self.arguments())
        texts = [path.read_text(encoding="utf-8") for path in map(Path, arguments) if path.is_file()]
        told = [dict(self.variables()), arguments, texts]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _recorded_digest(self) -> str:
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads((self.folder / "pid").read_text(encoding="utf-8"))["digest"])
        return ""

    def _run(self, command: str) -> None:
        environment = self.site.environment({**self.variables(), process.MARK: str(self.folder)})
        with (self.folder / "log").open("ab") as log:
            try:
                done = subprocess.run(
                    [str(self.script), command, *self.arguments()],
                    env=environment,
                    cwd=PROJECT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=_INSTALL_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise NotHealthy(self.name, f"could not {command} ({error})", process.log_tail(self.folder)) from error
        if done.returncode:
            raise NotHealthy(self.name, f"did not {command} ({done.returncode})", process.log_tail(self.folder))


class Airflow(Neighbour):
    """The scheduled master."""

    name = "airflow"
    port = "airflow"
    after = ("triggers", "ray")
    script = PROJECT / "airflow" / "start"

    def arguments(self) -> Sequence[str]:
        return ()

    def variables(self) -> Mapping[str, str]:
        python = self._python()
        settings = self.site.config.airflow
        given = {name: value for name, value in os.environ.items() if name in _AIRFLOW_VARIABLES}
        return given | {
            "EVERLOOP_CRON": settings.cron,
            "EVERLOOP_MAINTENANCE_CRON": settings.maintenance_cron,
            "EVERLOOP_POLL_S": str(settings.poll_s),
            "EVERLOOP_OVERRIDES": json.dumps(self.site.config.loop.overrides),
            "EVERLOOP_STATE": str(self.site.state),
            "EVERLOOP_STORAGE": self.site.storage,
            "EVERLOOP_RECIPE": self.site.config.loop.recipe or "tiny",
            "EVERLOOP_PYTHON": str(python),
            "EVERLOOP_AIRFLOW_STATE": str(self.folder),
            "EVERLOOP_AIRFLOW_PORT": str(self.site.config.ports.airflow),
            "EVERLOOP_DOOR_URL": self.site.url("triggers"),
            "EVERLOOP_DOOR_KEY": self.site.secrets.api_keys["Service::airflow"],
        }

    def problem(self) -> str:
        url = f"{self.site.url('airflow')}/api/v2/monitor/health"
        if told := answers(url):
            return told
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own loopback address
            parts: dict[str, Any] = json.load(answer)
        unwell = [name for name, part in parts.items() if part.get("status") not in ("healthy", None)]
        return f"unwell: {', '.join(unwell)}" if unwell else ""

    def components(self) -> Mapping[str, process.Started | None]:
        """The four that `airflow/start` has recorded."""
        recorded: dict[str, dict[str, int]] = {}
        with suppress(OSError, ValueError):
            recorded = json.loads((self.folder / "processes.json").read_text(encoding="utf-8"))
        return {name: process.Started(entry["pid"], entry["started"], 0.0, "") for name, entry in recorded.items()} or {
            "all": None
        }

    def _python(self) -> Path:
        """The interpreter of the drivers that Airflow submits: it knows who they act as.

        A key among a job's environment variables would stand in Airflow's pages and in Ray's.
        """
        secret = ("EVERLOOP_PRINCIPALS", "EVERLOOP_API_KEY", BROKER_ACCESS_KEY, BROKER_SECRET_KEY)
        known = self.site.loop_environment("Service::airflow")
        exports = [f"export {name}={shlex.quote(known[name])}" for name in secret if name in known]
        path = self.folder / "python"
        lines = ["#!/bin/sh", *exports, f'exec {shlex.quote(sys.executable)} "$@"']
        write_private(path, "\n".join(lines) + "\n")
        path.chmod(0o700)
        return path

    def missing(self) -> str:
        venv = Path(os.environ.get("EVERLOOP_AIRFLOW_VENV", self.folder / "venv"))
        if not self.script.exists():
            return "airflow/start is not there"
        return "" if (venv / ".installed").exists() else "not installed; `up --only airflow` does it"


class N8n(Neighbour):
    """The edge to people."""

    name = "n8n"
    port = "n8n"
    script = PROJECT / "n8n_flows" / "start"

    def arguments(self) -> Sequence[str]:
        settings = self.folder / "settings.toml"
        port = self.site.config.ports.n8n
        people = self.site.config.people
        document: dict[str, Any] = {
            "state": str(self.folder / "data"),
            "server": {"port": port, "runners_port": port + _RUNNERS_PORT_OFFSET},
            "door": {"url": self.site.url("triggers"), "api_key": self.site.secrets.api_keys["Service::n8n"]},
            "webhook": {"secret": self.site.secrets.webhooks["Service::n8n"], "token": self.site.secrets.n8n_token},
        }
        if people.slack_url:
            document["slack"] = {"url": people.slack_url}
        if people.mail:
            document["mail"] = dict(people.mail)
        write_private(settings, toml_text(document))
        return ("--settings", str(settings))

    def variables(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("EVERLOOP_N8N")}

    def problem(self) -> str:
        return answers(f"{self.site.url('n8n')}/healthz/readiness")

    def components(self) -> Mapping[str, process.Started | None]:
        """The server; it looks after its task runner itself."""
        with suppress(OSError, ValueError):
            entry = json.loads((self.folder / "data" / "n8n.pid").read_text(encoding="utf-8"))
            return {"server": process.Started(entry["pid"], entry["started_at"], 0.0, "")}
        return {"server": None}

    def missing(self) -> str:
        if not self.script.exists():
            return "n8n_flows/start is not there"
        if not (self.site.config.people.slack_url or self.site.config.people.mail):
            return "it would reach nobody: set people.slack_url or people.mail"
        return ""
