"""Brings a set of services up, each when those before it are healthy, and down in reverse order."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from workflows.engine import EngineError
from workflows.log import LogError
from workflows.services.errors import ServicesError
from workflows.services.service import Service, Status
from workflows.services.site import Site

Step = Literal["waits", "starts", "left", "started", "restarted", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the start of a service stands.

    Attributes:
        name: Of the service.
        step: `left`: it ran already. `skipped`: one that it needs failed.
        seconds: Since `up` began with it.
        error: Why it failed.
    """

    name: str
    step: Step
    seconds: float = 0.0
    error: str = ""


def up(site: Site, services: Sequence[Service], observe: Callable[[Progress], None]) -> Mapping[str, Progress]:
    """Starts what does not run. What does not depend on each other starts together.

    Args:
        site: Of the services.
        services: In the order in which they may start.
        observe: Told of each change, one at a time.

    Returns:
        The last progress of each service; look for `failed`.
    """
    with _locked(site):
        return _start(services, observe)


def heal(
    site: Site, services: Sequence[Service], observe: Callable[[Progress], None], may: Callable[[str], bool]
) -> Mapping[str, Progress]:
    """Starts again what has died and may be started again by now; empty if nothing has.

    What somebody stops meanwhile stays stopped: it is looked at once nobody else starts or stops anything.
    """

    def due() -> list[Service]:
        return [service for service in services if may(service.name) and service.has_died()]

    if not due():
        return {}
    with _locked(site):
        return _start(due(), observe)


def _start(services: Sequence[Service], observe: Callable[[Progress], None]) -> Mapping[str, Progress]:
    lock, last = threading.Lock(), {service.name: Progress(service.name, "waits") for service in services}

    def tell(progress: Progress) -> None:
        with lock:
            last[progress.name] = progress
            observe(progress)

    with ThreadPoolExecutor(len(services) or 1) as pool:
        futures: dict[str, Future[bool]] = {}
        for service in services:
            needed = [futures[name] for name in service.after if name in futures]
            futures[service.name] = pool.submit(_one, service, needed, tell)
        for future in futures.values():
            future.result()
    return last


def _one(service: Service, needed: Sequence[Future[bool]], tell: Callable[[Progress], None]) -> bool:
    if not all(future.result() for future in needed):
        tell(Progress(service.name, "skipped", error="what it needs did not start"))
        return False
    began = time.monotonic()
    tell(Progress(service.name, "starts"))
    try:
        done = service.up()
    except (ServicesError, EngineError, LogError, OSError) as error:
        tell(Progress(service.name, "failed", time.monotonic() - began, str(error)))
        return False
    tell(Progress(service.name, done, time.monotonic() - began))
    return True


def down(site: Site, services: Sequence[Service]) -> Iterator[tuple[str, bool]]:
    """Ends services in reverse order; gives each name, and whether anything was running."""
    with _locked(site):
        for service in reversed(services):
            yield service.name, service.down()


def statuses(services: Sequence[Service]) -> list[Status]:
    """How all of them are, asked at the same time."""
    with ThreadPoolExecutor(len(services) or 1) as pool:
        return list(pool.map(lambda service: service.status(), services))


@contextmanager
def _locked(site: Site) -> Iterator[None]:
    """One `up` or `down` at a time."""
    folder = site.state / "services"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
