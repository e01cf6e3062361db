"""The log: everything that must be true after a crash is a record in one.

    class Counter:                                   # a fold: how records become a state
        def initial(self): return 0
        def apply(self, state, record): return state + record.data["by"]
        def dump(self, state): return state
        def load(self, data): return data

    log = Log(open_store("file:///tmp/counters"), "counters/visits", Counter())
    log.append(lambda total: Draft("visited", {"by": 1}) if total < 100 else None)
    print(log.state)

Record n is the object `<name>/<n as 20 digits>.json`, created only if it is absent. Many processes may write one log:
each slot has one winner, and the losers fold the winner's record and decide again. There is no lock, no server, and no
other way to write.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from workflows.log.errors import (
    AlreadyExists,
    CorruptRecord,
    Refused,
    StoreError,
    StoreUnavailable,
)
from workflows.log.failpoints import failpoint
from workflows.log.notification import Notification
from workflows.log.reading import read_records, read_slot
from workflows.log.record import FIRST, Draft, Record, digest, record_key, seal, unseal
from workflows.log.snapshot import (
    EVERY,
    MAX_OPENED,
    SHARE,
    Snapshot,
    fold_name,
    read_snapshots,
    write_snapshot,
)
from workflows.log.store import Store, check_key
from workflows.log.stored import Verification, stored_records, verify_log

S = TypeVar("S")

MAX_ATTEMPTS = 6
"""Times that a write is tried while answers are unclear; on S3, whose client tries again by itself, about 15 s."""

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0

_logger = logging.getLogger(__name__)


Tell: TypeAlias = Callable[[S, Draft], Sequence[Notification]]
"""Says what a record means to people, from the state before it. Pure, and quick for records that mean nothing."""


class Fold(Protocol[S]):
    """How records become a state. Pure; states are immutable or treated so.

    An attribute `version` (default 1) tells apart the shapes that `dump` had over time.
    """

    def initial(self) -> S:
        """The state before the first record."""

    def apply(self, state: S, record: Record) -> S:
        """The state after one more record. Kinds that it does not know leave the state as it is."""

    def dump(self, state: S) -> Any:
        """The state as JSON, for snapshots."""

    def load(self, data: Any) -> S:
        """The state that `dump` gave."""


class Log(Generic[S]):
    """An append-only log and its folded state. Threads may share one; processes open their own."""

    def __init__(
        self,
        store: Store,
        name: str,
        fold: Fold[S],
        *,
        tell: Tell[S] | None = None,
        writer: str | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """Touches no storage; the log is opened by its first use.

        Args:
            store: Where it is kept.
            name: Its folder, for example `runs/2026-11-24-a1b2`.
            fold: How records become the state.
            tell: What people are told of a record: its field `notify`, unless the draft has one.
            writer: Names this writer in its records; by default host, process and a random part.
            max_attempts: Times that a write is tried while answers are unclear.
        """
        self.name = check_key(name)
        self.writer = writer or f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._max_attempts = max_attempts
        self._store = store
        self._fold = fold
        self._fold_name = fold_name(fold)
        self._tell = tell
        self._lock = threading.RLock()
        self._opened = False
        self._state = fold.initial()
        self._length = 0
        self._head = FIRST
        self._snapshot_length = 0
        self._num_opened = 0

    @property
    def state(self) -> S:
        """The state as of the last refresh or append; the first use opens the log."""
        self._open()
        return self._state

    @property
    def length(self) -> int:
        """Records folded into `state`."""
        self._open()
        return self._length

    def refresh(self) -> S:
        """Folds records that others wrote since. One read when there are none.

        Raises:
            CorruptRecord: A record cannot be trusted; `state` stays that of the records before it.
        """
        with self._lock:
            if not self._opened:
                self._open()
            else:
                self._catch_up()
            return self._state

    def append(self, decide: Callable[[S], Draft | None]) -> Record | None:
        """Writes what `decide` makes of the state; the only way to write.

        `decide` is pure: it is asked again, with the new state, whenever another writer was faster. It returns None if
        nothing is to be done, or raises a `Refused`. Both are believed only of a state that is up to date.

        Returns:
            The record, durable and folded; or None.

        Raises:
            Refused: What `decide` raised.
            InvalidRecord: The draft cannot be stored.
            StoreUnavailable: No clear answer after many attempts. The record may be there, or appear later: what is
                decided next is decided on what is there then.
        """
        with self._lock:
            fresh = not self._opened
            self._open()
            while True:
                try:
                    draft = decide(self._state)
                except Refused:
                    if fresh or not self._catch_up():
                        raise
                    fresh = True
                    continue
                if draft is None:
                    if fresh or not self._catch_up():
                        return None
                    fresh = True
                    continue
                draft_record = self._record(self._with_notices(draft))
                data = seal(self.name, draft_record)
                # Fold what readers will read: a tuple has become a list, and the caller's dict is not shared.
                record = unseal(self.name, self._length, data, self._head)
                if self._place(record, data):
                    self._apply(record, data)
                    failpoint("log.append.after-fold")
                    self._snapshot_if_due()
                    return record
                self._catch_up()
                fresh = True

    def records(self, start: int = 0) -> Iterator[Record]:
        """The stored records from `start` on, each checked against the one before."""
        return stored_records(self._store, self.name, start)

    def verify(self) -> Verification:
        """Reads the whole log and checks the chain; changes nothing."""
        return verify_log(self._store, self.name)

    def _open(self) -> None:
        with self._lock:
            if self._opened:
                return
            for snapshot in read_snapshots(self._store, self.name, self._fold_name):
                try:
                    self._state = self._fold.load(snapshot.state)
                    self._length, self._head, self._snapshot_length = snapshot.length, snapshot.head, snapshot.length
                    self._check_snapshot()
                    self._catch_up()
                except (CorruptRecord, ValueError, KeyError, TypeError) as error:
                    # Records are the truth. If they are at fault, reading them from the start says so.
                    _logger.warning(
                        "log %s: the snapshot of %d records is passed over: %s", self.name, snapshot.length, error
                    )
                    self._state, self._length, self._head, self._snapshot_length = self._fold.initial(), 0, FIRST, 0
                else:
                    break
            else:
                self._catch_up()
            self._num_opened = self._length - self._snapshot_length
            self._opened = True

    def _check_snapshot(self) -> None:
        last = read_slot(self._store, self.name, self._length - 1)
        if last is None or digest(last) != self._head:
            raise CorruptRecord(self.name, self._length - 1, "it is not the record that the snapshot was made of")

    def _catch_up(self) -> int:
        """Folds new records; returns how many there were."""
        before = self._length
        for data in read_records(self._store, self.name, self._length):
            self._apply(unseal(self.name, self._length, data, self._head), data)
        return self._length - before

    def _apply(self, record: Record, data: bytes) -> None:
        self._state = self._fold.apply(self._state, record)
        self._head = digest(data)
        self._length = record.index + 1

    def _with_notices(self, draft: Draft) -> Draft:
        if self._tell is None or draft.notify:
            return draft
        try:
            told = self._tell(self._state, draft)
        except Exception:
            # That it happened matters more than that somebody is told.
            _logger.exception("log %s: nobody is told of this %s", self.name, draft.kind)
            return draft
        return replace(draft, notify=tuple(each.to_json() for each in told)) if told else draft

    def _record(self, draft: Draft) -> Record:
        return Record(
            self._length,
            draft.kind,
            draft.data,
            secrets.token_hex(16),
            self.writer,
            draft.epoch,
            time.time(),
            self._head,
            tuple(draft.notify),
        )

    def _place(self, record: Record, data: bytes) -> bool:
        """Puts the bytes into their slot; whether they stand there, however many answers were lost on the way."""
        key = record_key(self.name, record.index)
        trouble: StoreError = StoreUnavailable(self._store.uri, key, "it was not tried")
        for attempt in range(self._max_attempts):
            if attempt:
                time.sleep(_pause_s(attempt))
            try:
                failpoint("log.append.before-create")
                self._store.create(key, data)
                failpoint("log.append.after-create")
            except StoreError as error:
                trouble = error
            else:
                return True
            # "Exists" may be the echo of this very write, and a time-out may have written. Only the slot knows.
            try:
                occupant = read_slot(self._store, self.name, record.index)
            except StoreUnavailable as error:
                trouble = error
                continue
            if occupant is not None:
                return unseal(self.name, record.index, occupant, self._head).record_id == record.record_id
            if not isinstance(trouble, AlreadyExists | StoreUnavailable):
                raise trouble
            _logger.info(
                "log %s: slot %d is still free after attempt %d: %s", self.name, record.index, attempt + 1, trouble
            )
        if isinstance(trouble, AlreadyExists):
            trouble = StoreUnavailable(self._store.uri, key, "it is said to exist, and cannot be read")
        raise trouble

    def _snapshot_if_due(self) -> None:
        if not self._is_snapshot_due():
            return
        try:
            snapshot = Snapshot(self._length, self._head, self._fold.dump(self._state))
            write_snapshot(self._store, self.name, self._fold_name, snapshot)
        except StoreError as error:
            _logger.warning("log %s: no snapshot of %d records: %s", self.name, self._length, error)
        except (TypeError, ValueError):
            # The record is written; that the fold cannot be dumped must not look like a write that failed.
            _logger.exception("log %s: %s does not dump its state as JSON", self.name, self._fold_name)
        self._snapshot_length, self._num_opened = self._length, 0

    def _is_snapshot_due(self) -> bool:
        if self._num_opened > MAX_OPENED:
            return True
        # The writer of the record that completes a thousand makes it; if it died, the next thousand is soon enough.
        num_new, least = self._length - self._snapshot_length, max(EVERY, self._snapshot_length // SHARE)
        return num_new >= least and (self._length % EVERY == 0 or num_new >= 2 * least)


def _pause_s(attempt: int) -> float:
    # Exponential with full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (attempt - 1))
    return random.uniform(0.5, 1.0) * longest  # noqa: S311
