"""Every run of a storage as one line, for who looks again and again: what is over is not read a second time.

Nothing is written: the index is what this process has read, and another one reads it anew. A run that is over may still
be buried, so each is asked after now and then, a few at a look.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

from workflows.engine.claims import holder
from workflows.engine.runs import Runs
from workflows.engine.state import OVER, RunFold, RunState, RunStatus, time_of
from workflows.engine.view import RunSummary, RunView, summary_of
from workflows.log import CorruptRecord, Log, stored_records
from workflows.log.record import record_key

RECHECK_S = 60.0
MAX_RECHECKS = 100
"""How often a run that is over is asked after, and how many of them at one look."""

MAX_VIEWS = 256


@dataclass(slots=True)
class _Over:
    """A run that is over; `length` is the number of its records, and the next one would change it."""

    summary: RunSummary
    length: int
    checked_at: float


class RunIndex:
    """The runs of a storage. Safe to use from threads.

    Args:
        runs: Of that storage.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs, self._store = runs, runs.store
        self._lock = threading.Lock()
        self._over: OrderedDict[str, _Over] = OrderedDict()  # those checked longest ago come first
        self._open: dict[str, Log[RunState]] = {}
        self._views: OrderedDict[str, tuple[int, RunView]] = OrderedDict()

    def list(self) -> builtins.list[RunSummary]:
        """All runs but buried ones, by id: a listing, and a read a run that is not over."""
        with self._lock:
            self._recheck()
            found = []
            for run_id in self._store.folders("runs"):
                over = self._over.get(run_id) or self._seen_over(run_id)
                summary = over.summary if over is not None else self._summary(run_id)
                if summary is not None and summary.status != "deleted":
                    found.append(summary)
            return found

    def view(self, run_id: str) -> RunView:
        """A run as of now; one that is over is read once.

        Raises:
            RunNotFound: There is none of that id.
        """
        with self._lock:
            known = self._views.get(run_id)
            if known is not None and self._has_ended_with(run_id, known[0]):
                self._views.move_to_end(run_id)
                return known[1]
        view = self._runs.view(run_id)
        with self._lock:
            over = self._over.get(run_id)
            if view.status in OVER and over is not None and over.summary.status == view.status:
                self._views[run_id] = over.length, view
                while len(self._views) > MAX_VIEWS:
                    self._views.popitem(last=False)
        return view

    def _recheck(self) -> None:
        now = time.monotonic()
        oldest = [run_id for run_id, _ in zip(self._over, range(MAX_RECHECKS), strict=False)]
        for run_id in oldest:
            over = self._over[run_id]
            if now - over.checked_at < RECHECK_S:
                return
            if self._has_ended_with(run_id, over.length):
                over.checked_at = now
                self._over.move_to_end(run_id)
            else:
                del self._over[run_id]

    def _has_ended_with(self, run_id: str, length: int) -> bool:
        return self._store.head(record_key(f"runs/{run_id}", length)) is None

    def _summary(self, run_id: str) -> RunSummary | None:
        log = self._open.get(run_id)
        if log is None:
            log = self._open[run_id] = Log(self._store, f"runs/{run_id}", RunFold(self._runs.blobs))
        try:
            state = log.refresh()
        except CorruptRecord:
            state = log.state  # of the records before it: one run that is torn must not hide the others
        if not state.exists:
            return None
        held = holder(self._store, run_id, state, self._runs.pace.ttl_s) is not None
        summary = summary_of(run_id, state, held=held)
        if state.status in OVER:
            self._over[run_id] = _Over(summary, state.length, time.monotonic())
            del self._open[run_id]
        return summary

    def _seen_over(self, run_id: str) -> _Over | None:
        """A run that was over before it was first looked at, from its first and its last record alone; None if it is
        not, or if that is not enough to say so.
        """
        if run_id in self._open:
            return None
        name, last = f"runs/{run_id}", -1
        for info in self._store.list(name):
            number = info.key.removeprefix(f"{name}/").removesuffix(".json")
            if not number.isdigit():
                break
            last = int(number)
        try:
            final = next(stored_records(self._store, name, last), None) if last > 0 else None
            if final is None or final.kind not in OVER:
                return None
            first = next(stored_records(self._store, name))
        except CorruptRecord:
            return None
        summary = RunSummary(
            run_id=run_id,
            status=cast(RunStatus, final.kind),
            created_at=time_of(first),
            updated_at=time_of(final),
            wake_at=None,
            held=False,
            claims_without_progress=0,
            reason=str(final.data.get("reason") or ""),
            cause=first.data.get("cause"),
        )
        over = self._over[run_id] = _Over(summary, last + 1, time.monotonic())
        return over
