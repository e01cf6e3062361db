"""Finds notifications in the logs of a storage, and records who is to be told.

A cursor for each log says how far it was looked through. Cursors of logs that bring nothing to tell move in memory only
and are written now and then, so a round in which nothing happens writes nothing: it lists the folders of logs, and asks
each log that is not over for its next record.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from workflows.engine.state import OVER
from workflows.log import CorruptRecord, Draft, Log, Notification, Record, Store, UnsupportedFormat, stored_records
from workflows.outbox.notices import NOTICES
from workflows.outbox.settings import Receiver
from workflows.outbox.state import CLOSED, OutboxState

FOLDERS = ("runs", "releases", "signals", "monitors")
"""Folders whose children are logs that tell."""

LOOK_BACK_S = 24 * 3600.0
"""The outbox of a storage that had none begins with what happened since."""

MAX_LAG = 200
"""Records that a restart may look through again."""

_MAX_FOUND, _MAX_CURSORS = 200, 5000  # in one record of the outbox, which may not be longer than a megabyte
_NUM_READERS = 16
_PLAIN = re.compile(r"[A-Za-z0-9_.\-/]{1,200}")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A notification in its place.

    Attributes:
        log: Name of the log.
        record: The record that carries it.
        position: Which of the record's notifications it is.
        notification: What is to be told.
    """

    log: str
    record: Record
    position: int
    notification: Notification

    @property
    def id(self) -> str:
        return event_id(self.log, self.record, self.position)


@dataclass(slots=True)
class _Look:
    """What one look into one log brought."""

    log: str
    start: int
    end: int
    closed: bool = False
    found: list[Found] = field(default_factory=list)


def event_id(log: str, record: Record, position: int) -> str:
    """The id of a notification, the same whoever finds it how often; fit for a `webhook-id`.

    It ends with a part of the record's random id: a receiver may serve many storages, or one that was begun anew.
    """
    named = log.replace("/", ":") if _PLAIN.fullmatch(log) else hashlib.sha256(log.encode()).hexdigest()
    return f"{named}:{record.index}:{position}:{record.record_id[:8]}"


def notifications_of(log: str, record: Record) -> Iterator[Found]:
    """What a record tells. An alias that it does not name is that of its log."""
    folder, _, name = log.partition("/")
    for position, entry in enumerate(record.notify):
        found = Notification.from_json(entry)
        if not found.alias and folder in ("releases", "signals", "monitors"):
            found = Notification(**{**asdict(found), "alias": name})
        yield Found(log, record, position, found)


class Collector:
    """Looks through the logs; keeps what it knows of them between looks.

    Args:
        store: The storage.
        outbox: Its outbox.
        receivers: Who may be told.
        now: The store's clock.
    """

    def __init__(
        self, store: Store, outbox: Log[OutboxState], receivers: Sequence[Receiver], now: Callable[[], float]
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._receivers = tuple(receivers)
        self._now = now
        self._read: dict[str, int] = {}
        self._origins: dict[str, str] = {}
        self._corrupt: set[str] = set()

    def collect(self) -> int:
        """Records what is new, and returns how many notifications that were."""
        state = self._outbox.refresh()
        founding = state.since is None
        since = self._now() - LOOK_BACK_S if state.since is None else state.since
        names = [name for name in self._names() if state.cursors.get(name, 0) != CLOSED]
        looks = self._look_all(names, state.cursors, since if founding else None)
        return self._record(looks, since, founding=founding)

    def _names(self) -> Iterator[str]:
        for folder in FOLDERS:
            for name in self._store.folders(folder):
                yield f"{folder}/{name}"
        yield NOTICES

    def _look_all(self, names: Sequence[str], cursors: Mapping[str, int], founding: float | None) -> list[_Look]:
        def look(name: str) -> _Look | None:
            start = max(cursors.get(name, 0), self._read.get(name, 0))
            if founding is not None and start == 0:
                start = self._first_since(name, founding)
            return self._look(name, start)

        if self._store.uri.startswith("file:") or len(names) < _NUM_READERS:
            return [found for name in names if (found := look(name)) is not None]
        with ThreadPoolExecutor(_NUM_READERS, thread_name_prefix="outbox-read") as pool:
            return [found for found in pool.map(look, names) if found is not None]

    def _look(self, name: str, start: int) -> _Look | None:
        look = _Look(name, start, start)
        try:
            for record in stored_records(self._store, name, start):
                look.end = record.index + 1
                look.closed = look.closed or (name.startswith("runs/") and record.kind in OVER)
                if record.notify and not self._is_copy(name, record):
                    look.found += notifications_of(name, record)
        except (CorruptRecord, UnsupportedFormat) as error:
            # What comes before is good; what comes after is not read before somebody repairs the log.
            if name not in self._corrupt:
                self._corrupt.add(name)
                _logger.warning("outbox: what follows in this log is not told: %s", error)
        return look if look.end > start or start > self._read.get(name, 0) else None

    def _first_since(self, name: str, since: float) -> int:
        """The first record of a log that may be young enough, so that an old storage need not be read from the start.
        One before the end is looked at in any case: it says whether the log is over.
        """
        first = last = 0
        for info in self._store.list(name):
            number = info.key.removeprefix(f"{name}/").removesuffix(".json")
            if not number.isdigit():
                break
            last = int(number)
            if info.modified_at < since:
                first = last + 1
        return min(first, last)

    def _is_copy(self, name: str, record: Record) -> bool:
        """Whether the record came with a copy of another run, which has told it."""
        if not name.startswith("runs/"):
            return False
        origin = self._origins.get(name)
        if origin is None:
            first = next(stored_records(self._store, name))
            origin = self._origins[name] = str(first.data.get("run_id", name))
        if name == f"runs/{origin}":
            return False
        return any(there.record_id == record.record_id for there in _one(self._store, f"runs/{origin}", record.index))

    def _record(self, looks: Sequence[_Look], since: float, *, founding: bool) -> int:
        written, count = self._outbox.state.cursors, 0
        batch: list[_Look] = []
        num_found = 0
        for part in (part for look in looks for part in _parts(look)):
            lag = part.end - written.get(part.log, 0)
            if not (part.found or part.closed or lag >= MAX_LAG or founding):
                self._read[part.log] = part.end
                continue
            if num_found + len(part.found) > _MAX_FOUND or len(batch) >= _MAX_CURSORS:
                count += self._append(batch, since)
                batch, num_found = [], 0
            batch.append(part)
            num_found += len(part.found)
        if batch or founding:
            count += self._append(batch, since)
        return count

    def _append(self, looks: Sequence[_Look], since: float) -> int:
        def decide(state: OutboxState) -> Draft | None:
            # Another dispatcher may have recorded the same meanwhile: what lies behind its cursor is no news.
            cursors: dict[str, int] = {}
            rows: list[dict[str, Any]] = []
            begins = since if state.since is None else state.since
            for look in looks:
                known = state.cursors.get(look.log, 0)
                if known == CLOSED or (known >= look.end and not look.closed):
                    continue
                cursors[look.log] = CLOSED if look.closed else look.end
                news = (found for found in look.found if found.record.index >= known)
                rows += [row for found in news if told_at(found.record) >= begins and (row := self._row(found))]
            if not cursors and not rows and state.since is not None:
                return None
            return Draft("collected", {"cursors": cursors, "found": rows, "since": since, "at": self._now()})

        record = self._outbox.append(decide)
        # Only now: what could not be recorded is found again.
        self._read.update({look.log: look.end for look in looks})
        return 0 if record is None else len(record.data["found"])

    def _row(self, found: Found) -> dict[str, Any] | None:
        note = found.notification
        addressees = [receiver.name for receiver in self._receivers if receiver.wants(note)]
        if not addressees:
            return None
        return {
            "id": found.id,
            "log": found.log,
            "index": found.record.index,
            "position": found.position,
            "event": note.event[:100],
            "severity": note.severity,
            "title": note.title[:300],
            "run_id": note.run_id,
            "alias": note.alias,
            "to": addressees,
        }


def told_at(record: Record) -> float:
    """When the record was made: by the store's clock where its writer told it."""
    at = record.data.get("at")
    return float(at) if isinstance(at, int | float) else record.at


def read_found(store: Store, log: str, index: int, position: int) -> Found | None:
    """A notification again, from its place; None if the record is gone or tells less."""
    for record in _one(store, log, index):
        return next((found for found in notifications_of(log, record) if found.position == position), None)
    return None


def _parts(look: _Look) -> Iterator[_Look]:
    """A look as parts that a record of the outbox has room for, in order, cut between records: a storm of notices, or
    an outbox that was away for long, must not stop everything else.
    """
    start, found = look.start, list[Found]()
    for each in look.found:
        if len(found) >= _MAX_FOUND and each.record.index > found[-1].record.index:
            yield _Look(look.log, start, each.record.index, found=found)
            start, found = each.record.index, []
        found.append(each)
    yield _Look(look.log, start, look.end, look.closed, found)


def _one(store: Store, log: str, index: int) -> Iterator[Record]:
    yield from (record for record in stored_records(store, log, index) if record.index == index)
