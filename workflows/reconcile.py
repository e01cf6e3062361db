"""The hands-off part, one loop: `python -m workflows.reconcile [--once]`.

Each round sends what people are to be told, brings the endpoints to what the release logs say, looks for drift, brings
the signal logs in line with the journals, starts what is due, and takes up runs whose runner has died or whose wait has
ended. Every part is idempotent and reads its work from the logs, so any number of reconcilers may run, and one that is
killed has lost nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, start_http_server

from steps.common.releases import released_aliases
from steps.common.signals import SignalState, open_signal_log
from steps.monitor.metrics import DriftCollector
from steps.monitor.monitor_log import open_monitor_log
from steps.monitor.scan import Scanner, watched_aliases
from workflows.access import AccessError, Redactor, StoredSeenIds, environment_secrets
from workflows.api import Loop, NotAdmitted
from workflows.command_line import DONE, FAILED, WRONG_USE, add_common
from workflows.engine import Engine, EngineError
from workflows.engine.due import DueRuns
from workflows.log import Log, LogError
from workflows.message_links import MessageLinks
from workflows.metrics import LoopCollector, RunLine
from workflows.outbox import Dispatched, Dispatcher, OutboxSettings, SettingsError, load_outbox_settings
from workflows.pipeline import connect, converge_all

INTERVAL_S = 10.0
STOP_S = 5.0
"""How long a reconciler that is told to stop waits for deliveries under way; what is cut off is sent again."""

FORGET_EVERY_S = 600.0
"""As long as an id is remembered."""

UNDER_WAY = frozenset({"running", "parked"})

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round did.

    Attributes:
        told: Notifications found that somebody is to be told.
        sent: Deliveries taken in hand.
        converged: Aliases whose endpoint was brought in line.
        alarms: Drift alarms by alias.
        started: Runs started from signals.
        resumed: Runs taken up again.
        dead: Runs given up.
        problems: What went wrong, and will be tried again in the next round.
    """

    told: int = 0
    sent: int = 0
    converged: tuple[str, ...] = ()
    alarms: dict[str, int] = field(default_factory=dict)
    started: tuple[str, ...] = ()
    resumed: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Reconciler:
    """Does rounds in one storage.

    Args:
        storage: Storage URI.
        settings: Who is told what; nobody by default.
        launch: Drives a run in a process of its own; by default `python -m workflows.run --resume`.

    Raises:
        workflows.access.AccessError: The directory of principals in the settings is wrong.
    """

    def __init__(
        self,
        storage: str,
        *,
        settings: OutboxSettings | None = None,
        launch: Callable[[str], subprocess.Popen[bytes]] | None = None,
    ) -> None:
        self._storage = storage
        self._engine = Engine(storage, connect=lambda: connect(storage))
        self._loop = Loop(storage, engine=self._engine)
        self._launch = launch or self._resume
        self._due = DueRuns(self._engine)
        self._scanners: dict[str, Scanner] = {}
        settings = settings or OutboxSettings()
        self.dispatcher = Dispatcher(
            self._engine.store,
            settings.notify,
            links=MessageLinks(self._engine, settings.public_url, settings.principals),
            redactor=Redactor(environment_secrets(os.environ)),
        )
        self.metrics = DriftCollector()
        self.loop_metrics = LoopCollector(self._engine.store)
        self._driven: dict[str, subprocess.Popen[bytes]] = {}
        self._signals: dict[str, Log[SignalState]] = {}
        self._forget_at = 0.0

    def round(self) -> Round:
        """Does everything that is due now, and waits for none of the runs."""
        problems: list[str] = []
        dispatched = self.dispatch(problems)
        converged = self._attempt("converge", self._converge, problems) or ()
        alarms = self._attempt("scan", self._scan, problems) or {}
        started = self._attempt("signals", self._start, problems) or ()
        resumed, dead = self._attempt("runs", self._take_up, problems) or ((), ())
        self._attempt("deliveries", self._forget_deliveries, problems)
        if not problems:
            self.loop_metrics.succeeded(self._engine.store.now())
        return Round(
            told=dispatched.found,
            sent=dispatched.claimed,
            converged=converged,
            alarms=alarms,
            started=started,
            resumed=resumed,
            dead=dead,
            problems=tuple(problems),
        )

    def dispatch(self, problems: list[str]) -> Dispatched:
        """Finds what people are to be told, and has it sent; adds to the problems what went wrong."""
        return self._attempt("outbox", self.dispatcher.round, problems) or Dispatched(0, 0)

    def dispatch_until(self, stop: threading.Event, every_s: float) -> None:
        """Dispatches again and again: a round may take minutes to start an endpoint, and people are told meanwhile."""
        while not stop.wait(every_s):
            self.dispatch([])

    def wait(self) -> bool:
        """Waits for the runs that were launched and the deliveries in hand; says whether all runs ended well."""
        well = all(process.wait() == 0 for process in self._driven.values())
        self.dispatch([])
        self.dispatcher.wait()
        return well

    def _converge(self) -> tuple[str, ...]:
        aliases = released_aliases(self._engine.store)
        if aliases:
            connect(self._storage)
            converge_all(self._storage, aliases)
        return tuple(aliases)

    def _scan(self) -> dict[str, int]:
        alarms = {}
        store = self._engine.store
        for alias in watched_aliases(store):
            scanner = self._scanners.setdefault(alias, Scanner(store, alias))
            alarms[alias] = len(scanner.scan().alarms)
            monitor, signals = open_monitor_log(store, alias).refresh(), open_signal_log(store, alias).refresh()
            self.metrics.follow(alias, monitor, signals, store.now())
        return alarms

    def _start(self) -> tuple[str, ...]:
        started = []
        runs = self.loop_metrics.runs()
        for alias in self._loop.aliases():
            if self._is_quiet(alias, runs):
                continue
            self._loop.settle(alias)
            try:
                begun = self._loop.start_due(alias)
            except NotAdmitted as error:
                logger.info("%s: %s", alias, error)
                continue
            if begun is not None and not begun.merged:
                started.append(begun.run_id)
        return tuple(started)

    def _is_quiet(self, alias: str, runs: Mapping[str, RunLine]) -> bool:
        """Whether nothing waits for a run, and none has ended that the signal log does not know of. To say so costs one
        read; to settle costs twenty, and there may be a thousand aliases.
        """
        log = self._signals.setdefault(alias, open_signal_log(self._engine.store, alias))
        state = log.refresh()
        if state.pending:
            return False
        if state.active is None:
            return True
        line = runs.get(state.active.run_id)
        return state.active.started and line is not None and line.status in UNDER_WAY

    def _take_up(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        self._driven = {run_id: process for run_id, process in self._driven.items() if process.poll() is None}
        resumed, dead = [], []
        for run_id in self._due.look(self.loop_metrics.unfinished_runs()):
            if run_id in self._driven:
                continue
            if self._engine.give_up(run_id):
                dead.append(run_id)
            else:
                self._driven[run_id] = self._launch(run_id)
                resumed.append(run_id)
        return tuple(resumed), tuple(dead)

    def _forget_deliveries(self) -> None:
        """Forgets, now and then, ids of webhooks that are too old to be replayed; or there would be one for each that
        ever came.
        """
        if time.monotonic() >= self._forget_at:
            StoredSeenIds(self._engine.store).prune()
            self._forget_at = time.monotonic() + FORGET_EVERY_S

    def _resume(self, run_id: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "workflows.run", "--resume", run_id, "--storage", self._storage, "--json"]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _attempt(self, part: str, work: Callable[[], T], problems: list[str]) -> T | None:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - one part must not keep the others from their work; it is reported and tried again
            logger.warning("%s: %s: %s", part, type(error).__name__, error)
            self.loop_metrics.failed(part)
            problems.append(f"{part}: {type(error).__name__}: {error}")
            return None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m workflows.reconcile", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--once", action="store_true", help="one round, then wait for the runs that it took up")
    made.add_argument(
        "--interval-s", type=float, default=INTERVAL_S, help="seconds between rounds (default: %(default)s)"
    )
    made.add_argument("--metrics-port", type=int, metavar="PORT", help="serve `/metrics` on this port")
    made.add_argument(
        "--metrics-host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address on which metrics are served (default: %(default)s)",
    )
    made.add_argument("--settings", type=Path, metavar="FILE", help="TOML: `public_url`, `principals`, `[[notify]]`")
    add_common(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=os.environ.get("EVERLOOP_LOG", "INFO"), format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = load_outbox_settings(arguments.settings) if arguments.settings else None
        reconciler = Reconciler(arguments.storage, settings=settings)
    except (SettingsError, AccessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except (EngineError, LogError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    if arguments.metrics_port is not None:
        registry = CollectorRegistry()
        registry.register(reconciler.metrics)
        registry.register(reconciler.loop_metrics)
        start_http_server(arguments.metrics_port, addr=arguments.metrics_host, registry=registry)
    if not arguments.once:
        beside = (stop, arguments.interval_s)
        threading.Thread(target=reconciler.dispatch_until, args=beside, name="outbox", daemon=True).start()
    while True:
        done = reconciler.round()
        _say(done, arguments.json)
        if arguments.once:
            well = reconciler.wait()
            return DONE if well and not done.problems else FAILED
        if stop.wait(arguments.interval_s):
            reconciler.dispatcher.wait(STOP_S)
            return DONE


def _say(done: Round, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(done)), flush=True)
        return
    if done.told or done.sent:
        print(f"told of {done.told}, {done.sent} deliveries under way", flush=True)
    for word, runs in (("started", done.started), ("took up", done.resumed), ("gave up", done.dead)):
        for run_id in runs:
            print(f"{word} {run_id}", flush=True)
    for alias, count in done.alarms.items():
        if count:
            print(f"{count} drift alarms for {alias}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
