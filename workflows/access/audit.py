"""The audit log: every decision, hash-chained, with signed checkpoints.

A writer (a process, or a role of one machine) has the log `audit/<writer>`; its records are chained by SHA-256 as those
of every log. A chain alone does not show a tail that was cut off or a log that was rewritten from some point on, so the
writer signs (Ed25519) how many records there are and the hash of the last one, in the log `audit-checkpoints`, which
may lie in a storage of its own: a bucket with object lock. `workflows.access.audit_check` compares the two.

Plain allows are written together, at most a second late. Denials and control decisions are written before the answer;
those that arrive together share a record. A process that is killed loses at most the plain allows of its last second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

from workflows.access.errors import AuditUnavailable
from workflows.access.signing import SigningKey
from workflows.log import Draft, Log, LogError, Record, Store, canonical_json
from workflows.log.redaction import Redactor

_log = logging.getLogger(__name__)

AUDIT_PREFIX = "audit/"
CHECKPOINT_LOG = "audit-checkpoints"
FLUSH_AFTER_S = 1.0
MAX_BATCH = 1_000
CHECKPOINT_EVERY_RECORDS = 1_000
CHECKPOINT_EVERY_S = 60.0
# Records are at most 1 MiB.
_MAX_BATCH_BYTES = 700_000
_MAX_ENTRY_BYTES = 8_192
_MAX_TEXT = 500
_MAX_ITEMS = 50
_MAX_DEPTH = 5
# A storage that is away must not fill the memory; from here on plain allows wait for it too.
_MAX_BUFFERED = 10 * MAX_BATCH
_DOMAIN = b"everloop audit checkpoint 1\n"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.@-]+")


@dataclass(frozen=True, slots=True)
class AuditState:
    """What the records of an audit log add up to: the number of entries in it."""

    num_entries: int = 0


class AuditFold:
    """Counts entries."""

    def initial(self) -> AuditState:
        """No entries."""
        return AuditState()

    def apply(self, state: AuditState, record: Record) -> AuditState:
        """Adds the entries of a record."""
        return AuditState(state.num_entries + len(record.data.get("entries", ())))

    def dump(self, state: AuditState) -> Any:
        """For snapshots."""
        return {"num_entries": state.num_entries}

    def load(self, data: Any) -> AuditState:
        """From a snapshot."""
        return AuditState(int(data["num_entries"]))


@dataclass(frozen=True, slots=True)
class _Entry:
    data: dict[str, Any]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed statement about a log.

    Attributes:
        log: Name of the audit log.
        count: Records in it.
        head: SHA-256 of the stored bytes of its last record.
        at: Unix seconds.
        key: Id of the key that signed.
        signature: Ed25519 over `message()`, in base64.
    """

    log: str
    count: int
    head: str
    at: float
    key: str
    signature: str = ""

    def message(self) -> bytes:
        """The signed bytes: a fixed first line, then the fields as sorted JSON."""
        fields = {"log": self.log, "count": self.count, "head": self.head, "at": self.at, "key": self.key}
        return _DOMAIN + canonical_json(fields)


def audit_log_name(writer: str) -> str:
    """The log of a writer; what cannot stand in a key becomes a dash."""
    return AUDIT_PREFIX + (_NOT_IN_NAMES.sub("-", writer).strip(".-") or "unnamed")


def head_digest(store: Store, log: str, count: int) -> str:
    """SHA-256 of the stored bytes of record `count - 1`.

    Raises:
        NotFound: There is no such record.
    """
    return hashlib.sha256(store.get(f"{log}/{count - 1:020d}.json")).hexdigest()


class AuditLog:
    """Writes decisions. Safe to use from threads; use it as a context manager, or call `close`.

    Args:
        store: Where the log lies.
        writer: Whose log this is, for example `triggers@host`. Processes may share a name: their records then
            interleave.
        key: Signs the checkpoints.
        anchors: Where the checkpoints lie; by default the same store.
        redactor: Takes known secrets out of entries.
        flush_after_s: How late a plain allow may be written.
    """

    def __init__(
        self,
        store: Store,
        writer: str,
        key: SigningKey,
        *,
        anchors: Store | None = None,
        redactor: Redactor | None = None,
        flush_after_s: float = FLUSH_AFTER_S,
    ) -> None:
        self.name = audit_log_name(writer)
        self._store = store
        self._key = key
        self._redactor = redactor
        self._flush_after_s = flush_after_s
        self._log = Log(store, self.name, AuditFold())
        self._anchor_log = Log(anchors or store, CHECKPOINT_LOG, AuditFold())
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._buffer: list[_Entry] = []
        self._num_taken = 0
        self._num_written = 0
        self._count = 0
        self._checkpointed_count = 0
        self._checkpointed_at = time.monotonic()
        self._wake = threading.Event()
        self._closed = False
        self._flusher = threading.Thread(target=self._flush_in_time, name="audit-flush", daemon=True)
        self._flusher.start()

    def record(self, entries: Sequence[Mapping[str, Any]], *, durable: bool) -> None:
        """Takes entries in. If `durable`, returns when they are stored.

        Raises:
            AuditUnavailable: They could not be stored, or too many others wait for the storage.
        """
        tidy = [_tidy_entry(entry if self._redactor is None else self._redactor.value(entry)) for entry in entries]
        with self._lock:
            if self._closed:
                raise AuditUnavailable(self.name, "closed")
            self._buffer.extend(tidy)
            self._num_taken += len(tidy)
            ticket = self._num_taken
            waiting = len(self._buffer)
        if durable or waiting >= _MAX_BUFFERED:
            self._write_until(ticket)
        elif waiting >= MAX_BATCH:
            self._wake.set()

    def event(self, event: str, **facts: Any) -> None:
        """Writes something that is no decision but must be known, before it returns: a refused webhook, a spent token.

        Raises:
            AuditUnavailable: It could not be stored.
        """
        self.record([{"at": time.time(), "event": event, **facts}], durable=True)

    def flush(self) -> None:
        """Writes all that waits.

        Raises:
            AuditUnavailable: The storage did not take it.
        """
        with self._lock:
            ticket = self._num_taken
        self._write_until(ticket)

    def checkpoint(self) -> Checkpoint | None:
        """Signs what is written so far; None if nothing is.

        Raises:
            AuditUnavailable: The storage did not take it.
        """
        with self._writing:
            return self._checkpoint()

    def close(self) -> None:
        """Writes all that waits, signs a last checkpoint and stops. May be called again.

        Raises:
            AuditUnavailable: The storage did not take it.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        self._flusher.join()
        self.flush()
        self.checkpoint()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_until(self, ticket: int) -> None:
        """Returns when all entries up to that number are stored. Whoever gets the lock writes for all who wait."""
        with self._writing:
            while self._num_written < ticket:
                with self._lock:
                    batch = _first_batch(self._buffer)
                draft = Draft("decisions", {"entries": [entry.data for entry in batch]})
                try:
                    record = self._log.append(_always(draft))
                except (LogError, OSError) as error:
                    raise AuditUnavailable(self.name, f"{type(error).__name__}: {error}") from error
                if record is None:
                    raise AuditUnavailable(self.name, "the log took no record")
                # Only now are they gone from the buffer: an append that failed is tried again with the next flush.
                with self._lock:
                    del self._buffer[: len(batch)]
                self._num_written += len(batch)
                self._count = record.index + 1
            if self._checkpoint_is_due():
                self._checkpoint()

    def _checkpoint_is_due(self) -> bool:
        num_new = self._count - self._checkpointed_count
        if num_new <= 0:
            return False
        late = time.monotonic() - self._checkpointed_at >= CHECKPOINT_EVERY_S
        return num_new >= CHECKPOINT_EVERY_RECORDS or late or self._checkpointed_count == 0

    def _checkpoint(self) -> Checkpoint | None:
        if self._count == self._checkpointed_count:
            return None
        try:
            head = head_digest(self._store, self.name, self._count)
            unsigned = Checkpoint(self.name, self._count, head, time.time(), self._key.public.id)
            signed = replace(unsigned, signature=self._key.sign(unsigned.message()))
            self._anchor_log.append(_always(Draft("checkpoint", asdict(signed))))
        except (LogError, OSError) as error:
            raise AuditUnavailable(CHECKPOINT_LOG, f"{type(error).__name__}: {error}") from error
        self._checkpointed_count = self._count
        self._checkpointed_at = time.monotonic()
        return signed

    def _flush_in_time(self) -> None:
        is_away = False
        while not self._closed:
            self._wake.wait(self._flush_after_s)
            self._wake.clear()
            try:
                self.flush()
            except AuditUnavailable as error:
                if not is_away:
                    _log.error("%s", error)
                is_away = True
            else:
                is_away = False


def _always(draft: Draft) -> Callable[[AuditState], Draft]:
    return lambda _: draft


def _first_batch(buffer: Sequence[_Entry]) -> list[_Entry]:
    """As many entries as one record takes, at least one."""
    batch: list[_Entry] = []
    num_bytes = 0
    for entry in buffer[:MAX_BATCH]:
        num_bytes += entry.num_bytes
        if batch and num_bytes > _MAX_BATCH_BYTES:
            break
        batch.append(entry)
    return batch


def _tidy_entry(entry: Mapping[str, Any]) -> _Entry:
    """The entry as JSON of bounded size and depth: what a caller was sent must not be able to stop the log."""
    data: dict[str, Any] = _tidy(entry, 0)
    num_bytes = len(json.dumps(data, separators=(",", ":")))
    if num_bytes > _MAX_ENTRY_BYTES:
        data = {name: value for name, value in data.items() if not isinstance(value, dict | list)} | {"cut": num_bytes}
        num_bytes = len(json.dumps(data, separators=(",", ":")))
    return _Entry(data, num_bytes)


def _tidy(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        items = list(value.items())[:_MAX_ITEMS]
        return {str(key)[:_MAX_TEXT]: _tidy(item, depth + 1) for key, item in items}
    if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
        return [_tidy(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    return (value if isinstance(value, str) else repr(value))[:_MAX_TEXT]
