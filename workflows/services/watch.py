"""The watch: starts again what has died, each service after a wait that grows with its deaths, and keeps logs short.

It looks at what was started and not stopped; a service that hangs without dying is left to the alerts and to people.
What the services were doing is none of its business: the journal, the outbox and their own stores hold that.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workflows.services.config import WatchSettings
from workflows.services.process import trim_log
from workflows.services.secret_file import write_private
from workflows.services.service import Daemon, Launch, Service
from workflows.services.site import Site
from workflows.services.supervisor import Progress, heal
from workflows.services.toml_text import toml_text

_INSTALLED_ELSEWHERE = (
    "EVERLOOP_MINIO",
    "EVERLOOP_N8N",
    "EVERLOOP_AIRFLOW_VENV",
    "EVERLOOP_AIRFLOW_DB",
    "XDG_CACHE_HOME",
)
_MAX_DOUBLINGS = 30


class Watch(Daemon):
    """The watch as a service of the set: ended first, so that nothing comes back while the others are ended."""

    name = "watch"

    def launch(self) -> Launch:
        config = self.folder / "services.toml"
        write_private(config, toml_text(self.site.config.model_dump(mode="json")))
        command = [sys.executable, "-m", "workflows.services", "watch", "--config", str(config)]
        command += ["--state", str(self.site.state), "--only", ",".join(sorted(self.site.names))]
        given = {name: os.environ[name] for name in _INSTALLED_ELSEWHERE if name in os.environ}
        return Launch(command, given, [config])

    def problem(self) -> str:
        """It does nothing that could be asked about; that it runs is enough."""
        return ""


@dataclass(frozen=True, slots=True)
class _Death:
    number: int
    at: float
    again_at: float


class Watcher:
    """Looks, and starts again.

    Args:
        settings: How soon.
        tell: Told a line for each thing done.
        clock: Seconds that never go back.
    """

    def __init__(
        self, settings: WatchSettings, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._tell, self._clock = settings, tell, clock
        self._deaths: dict[str, _Death] = {}

    def look(self, site: Site, services: Sequence[Service]) -> None:
        """One look at a set."""
        for service in (*services, Watch(site)):
            try:
                if trim_log(service.folder, self._settings.max_log_bytes):
                    self._say(f"{service.name} has filled its log, which begins anew")
            except OSError as error:  # a full disk, say; to look after services matters more
                self._say(f"the log of {service.name} stays long: {error}")
        for progress in heal(site, services, self._observe, self.may).values():
            if progress.step not in ("waits", "starts", "skipped"):
                self._count(progress.name)

    def may(self, name: str) -> bool:
        """Whether a service that has died is to be started again now."""
        death = self._deaths.get(name)
        return death is None or self._clock() >= death.again_at

    def _count(self, name: str) -> None:
        now, before = self._clock(), self._deaths.get(name)
        forgiven = before is None or now - before.at > self._settings.forgive_s
        number = 0 if forgiven or before is None else before.number + 1
        wait_s = min(self._settings.first_wait_s * 2 ** min(number, _MAX_DOUBLINGS), self._settings.longest_wait_s)
        self._deaths[name] = _Death(number, now, now + wait_s)

    def _observe(self, progress: Progress) -> None:
        if progress.step == "starts":
            self._say(f"{progress.name} has died")
        elif progress.step != "waits":
            self._say(f"{progress.name} {progress.step} after {progress.seconds:.1f} s {progress.error}".strip())

    def _say(self, line: str) -> None:
        self._tell(f"{time.strftime('%FT%TZ', time.gmtime())} {line}")
