"""What `/metrics` of the reconciler shows of the loop: runs, signals, rounds, canaries, deliveries.

Values come from the logs, not from this process, so a restart changes none of them. A log is read once and then
followed; runs that are over are never looked at again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steps.common.release_state import ReleaseState
from steps.common.releases import open_release_log
from steps.common.signals import SignalState, open_signal_log
from steps.monitor.metrics import STAGES
from workflows.engine.state import OVER
from workflows.log import Log, LogError, Record, Store, stored_records
from workflows.outbox import OutboxState, open_outbox

FRESH_S = 5.0
"""Two looks within this time show the same."""

RESTING = frozenset({"failed", "dead"})
RESTING_AGAIN_S, MAX_RESTING_AGAIN_S = 20.0, 600.0
"""When a run that has failed is asked after again, and at the latest: somebody may have resumed it, most never do."""

ROUND_OUTCOMES = ("promoted", "rejected", "rolled_back", "held", "unchanged", "failed", "cancelled")
_STATUS = {
    "created": "pending",
    "claimed": "running",
    **{kind: kind for kind in ("parked", "succeeded", "failed", "cancelled", "dead", "deleted")},
}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunLine:
    """What is shown of a run.

    Attributes:
        status: As in `workflows.engine.RunSummary`; empty before its first record.
        alias: What it was started for; empty for runs of before there were labels.
        created_at: Unix seconds.
        updated_at: Time of its last record.
    """

    status: str = ""
    alias: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0


class RunLineFold:
    """Folds a journal into one line; it knows no graph, so it is cheap to keep for every run that is not over."""

    def initial(self) -> RunLine:
        return RunLine()

    def apply(self, state: RunLine, record: Record) -> RunLine:
        at = float(record.data.get("at", record.at))
        state = replace(state, status=_STATUS.get(record.kind, state.status), updated_at=at)
        if record.index == 0:
            labels = record.data.get("labels") or {}
            state = replace(state, alias=str(labels.get("alias", "")), created_at=at)
        return state

    def dump(self, state: RunLine) -> Any:
        return [state.status, state.alias, state.created_at, state.updated_at]

    def load(self, data: Any) -> RunLine:
        return RunLine(*data)


class RunWatch:
    """Where every run of a storage stands. Not for several threads at once.

    Args:
        store: The storage.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._over: dict[str, RunLine] = {}
        self._open: dict[str, Log[RunLine]] = {}
        self._resting: dict[str, tuple[float, float]] = {}  # when to ask again, and after how long

    def refresh(self) -> Mapping[str, RunLine]:
        """The runs by id: one listing, and one read a run that is under way; of one that has failed now and then."""
        now = time.monotonic()
        for run_id in self._store.folders("runs"):
            again_at, pause_s = self._resting.get(run_id, (0.0, RESTING_AGAIN_S / 2))
            if run_id in self._over or now < again_at:
                continue
            log = self._open.get(run_id)
            if log is None:
                ended = self._ended(run_id)
                if ended is not None:
                    self._over[run_id] = ended
                    continue
                log = self._open[run_id] = Log(self._store, f"runs/{run_id}", RunLineFold())
            try:
                line = log.refresh()
            except LogError as error:
                _logger.warning("run %s is shown as it was: %s", run_id, error)
                continue
            if line.status in OVER:
                self._over[run_id] = line
                del self._open[run_id]
            if line.status in RESTING:
                pause_s = min(2 * pause_s, MAX_RESTING_AGAIN_S)
                self._resting[run_id] = now + pause_s, pause_s
            else:
                self._resting.pop(run_id, None)
        return self._over | {run_id: log.state for run_id, log in self._open.items() if log.state.status}

    @property
    def unfinished(self) -> list[str]:
        """Runs that are neither over nor have failed, as of the last refresh."""
        return sorted(run_id for run_id, log in self._open.items() if log.state.status not in {"", *RESTING})

    def _ended(self, run_id: str) -> RunLine | None:
        """The line of a run that is over, from its first and last record alone; None if it is not."""
        last = -1
        for info in self._store.list(f"runs/{run_id}"):
            number = info.key.rpartition("/")[2].removesuffix(".json")
            if not number.isdigit() or info.key.count("/") != 2:
                break
            last = int(number)
        if last < 0:
            return None
        fold = RunLineFold()
        try:
            final = next(stored_records(self._store, f"runs/{run_id}", last), None)
            if final is None or final.kind not in OVER:
                return None
            first = next(stored_records(self._store, f"runs/{run_id}"))
        except LogError:
            return None
        return fold.apply(fold.apply(fold.initial(), first), final)


class LoopCollector(Collector):
    """Shows the loop in one storage; register it with a `CollectorRegistry`.

    Args:
        store: The storage.
        clock: Unix seconds by the store's clock; by default asked of the store.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        self._clock = clock or store.now
        self._lock = threading.Lock()
        self._runs = RunWatch(store)
        self._signals: dict[str, Log[SignalState]] = {}
        self._releases: dict[str, Log[ReleaseState]] = {}
        self._outbox = open_outbox(store)
        self._problems: Counter[str] = Counter()
        self._last_success = 0.0
        self._shown: list[Metric] = []
        self._shown_at = float("-inf")

    def succeeded(self, at: float) -> None:
        """Takes down the end of a round without problems, Unix seconds."""
        self._last_success = at

    def failed(self, part: str) -> None:
        """Counts a problem of a part of the reconciler."""
        self._problems[part] += 1

    def runs(self) -> Mapping[str, RunLine]:
        """All runs by id, as of now."""
        with self._lock:
            return self._runs.refresh()

    def unfinished_runs(self) -> list[str]:
        """Runs that are neither over nor have failed. Of ten thousand that are, a reconciler need not ask each whether
        it is due.
        """
        with self._lock:
            self._runs.refresh()
            return self._runs.unfinished

    def describe(self) -> Iterator[Metric]:
        """The metrics without values: what there is, and what the registry checks names against."""
        yield from loop_metrics()

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._shown_at >= FRESH_S:
                families = _Families()
                try:
                    self._fill(families)
                except LogError as error:
                    # A storage that does not answer must not take down the page that says so.
                    _logger.warning("metrics: %s", error)
                    self._problems["metrics"] += 1
                self._shown, self._shown_at = families.all, time.monotonic()
            yield from (*self._shown, *self._own())

    def _own(self) -> Iterator[Metric]:
        families = _Families()
        families.last_success.add_metric((), self._last_success)
        for part, count in sorted(self._problems.items()):
            families.problems.add_metric((part,), count)
        yield from (families.last_success, families.problems)

    def _fill(self, families: _Families) -> None:
        now = self._clock()
        runs = self._runs.refresh()
        for (alias, status), count in sorted(Counter((line.alias, line.status) for line in runs.values()).items()):
            families.runs.add_metric((alias, status), count)
        for alias, signals in self._followed("signals", self._signals, open_signal_log):
            families.signals_of(alias, signals, runs, now)
        for alias, release in self._followed("releases", self._releases, open_release_log):
            families.canary_of(alias, release, now)
        families.outbox_of(self._outbox.refresh(), now)

    def _followed(
        self, folder: str, known: dict[str, Log[Any]], opened: Callable[[Store, str], Log[Any]]
    ) -> Iterator[tuple[str, Any]]:
        for alias in self._store.folders(folder):
            if alias not in known:
                known[alias] = opened(self._store, alias)
            yield alias, known[alias].refresh()


class _Families:
    """One sample of every metric."""

    def __init__(self) -> None:
        self.runs = _gauge("runs", "Runs by alias and status.", "alias", "status")
        self.age = _gauge("active_run_age_seconds", "Since the run that holds the alias was asked for.", "alias")
        self.idle = _gauge("active_run_idle_seconds", "Since the last record of the run that holds the alias.", "alias")
        self.stage = _gauge("signal_stage", "1 for the stage that the alias is in.", "alias", "stage")
        self.signals = _counter("signals", "Signals decided about.", "alias", "source", "outcome")
        self.rounds = _counter("rounds", "Runs of the alias that ended, by outcome.", "alias", "outcome")
        self.canary_age = _gauge("canary_age_seconds", "Age of the rollout under way; 0 if none.", "alias")
        self.canary_weight = _gauge("canary_weight", "Share of the challenger under way; 0 if none.", "alias")
        self.pending = _gauge("outbox_pending", "Deliveries that wait or are repeated.")
        self.oldest = _gauge("outbox_oldest_pending_seconds", "Age of the oldest event that waits; 0 if none.")
        self.dead = _gauge("outbox_dead", "Events that could not be delivered to somebody: dead letters.")
        self.deliveries = _counter("outbox_deliveries", "Attempts to deliver, by outcome.", "receiver", "outcome")
        self.last_success = _gauge(
            "reconcile_last_success_timestamp_seconds",
            "End of the last round that had no problem; 0 if none.",
        )
        self.problems = _counter("reconcile_problems", "Problems of the reconciler, by part.", "part")

    @property
    def all(self) -> list[Metric]:
        return [family for family in vars(self).values() if family not in (self.last_success, self.problems)]

    def signals_of(self, alias: str, state: SignalState, runs: Mapping[str, RunLine], now: float) -> None:
        """Samples of a signal log."""
        current = state.stage(now)
        for stage in STAGES:
            self.stage.add_metric((alias, stage), float(stage == current))
        for name, count in sorted(state.num_decided.items()):
            source, _, outcome = name.partition("/")
            self.signals.add_metric((alias, source, outcome), count)
        ended: Counter[str] = Counter()
        for name, count in state.num_finished.items():
            ended[name.partition("/")[2]] += count
        for outcome in ROUND_OUTCOMES:
            self.rounds.add_metric((alias, outcome), ended[outcome])
        if state.active is not None:
            line = runs.get(state.active.run_id) or RunLine(
                created_at=state.active.admitted_at, updated_at=state.active.admitted_at
            )
            self.age.add_metric((alias,), max(now - line.created_at, 0.0))
            self.idle.add_metric((alias,), max(now - line.updated_at, 0.0))

    def canary_of(self, alias: str, state: ReleaseState, now: float) -> None:
        """Samples of a release log."""
        rollout = state.rollout
        self.canary_age.add_metric((alias,), max(now - rollout.opened_at, 0.0) if rollout else 0.0)
        self.canary_weight.add_metric((alias,), rollout.weight if rollout else 0.0)

    def outbox_of(self, state: OutboxState, now: float) -> None:
        """Samples of the outbox."""
        waiting = [
            event.collected_at
            for event in state.pending.values()
            for delivery in event.deliveries.values()
            if delivery.status == "pending"
        ]
        self.pending.add_metric((), len(waiting))
        self.oldest.add_metric((), max(now - min(waiting), 0.0) if waiting else 0.0)
        self.dead.add_metric((), len(state.dead))
        for (receiver, outcome), count in sorted(state.num_outcomes.items()):
            self.deliveries.add_metric((receiver, outcome), count)


def loop_metrics() -> Iterable[Metric]:
    """Every metric of `LoopCollector`, without values: for the reference."""
    families = _Families()
    return [*families.all, families.last_success, families.problems]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"everloop_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"everloop_{name}", text, labels=labels)
