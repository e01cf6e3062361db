"""The outcome log `outcomes/<alias>/<writer>`: what became of each request.

A router gives entries to `OutcomeWriter.add`, which never blocks; a thread appends them in batches of at most 1,000
entries or 1 second, so a kill -9 loses at most the last second. Readers fold all writers and keep a cursor for each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

from workflows.log import Draft, Log, Record, Store, StoreError, list_logs

logger = logging.getLogger(__name__)

Variant = Literal["champion", "canary", "shadow"]

MAX_BATCH = 1000
"""Entries in one record."""

MAX_BATCH_BYTES = 700_000
"""JSON of one record: logs refuse records over 1 MiB."""

MAX_DELAY_S = 1.0
"""The longest an entry waits for its record: what a kill -9 may lose."""

MAX_PENDING = 50_000
"""Entries kept while the storage is away, about 50 MB; older ones are dropped and counted."""

MAX_TEXT_CHARS = 4000
"""Characters of a prompt or an answer that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request.

    Attributes:
        request_id: Names the request; answers carry it as `x-request-id`.
        session: Digest of the session key: requests of one session stay with one variant.
        at: When the answer ended, Unix seconds by the router's clock.
        variant: Who was asked: `champion`, `canary` (chosen by weight), or `shadow` (the challenger, never returned).
        version: Model version that was asked.
        status: HTTP status of what this variant gave: 200, 5xx.
        rollout: The rollout under way, or None.
        step: Its step.
        weight: The challenger's weight at that time.
        ttft_s: Seconds to the first token; None if there was none.
        tpot_s: Mean seconds per token after the first; None with fewer than two tokens.
        num_prompt_tokens: Tokens of the prompt.
        num_tokens: Tokens of the answer.
        finish_reason: `stop`, `length`, `error`, or `abort` when the client left.
        bad: Metrics by which this answer is bad: `failed`, `slow`, `degenerate`, `implausible`.
        nats_per_byte: Score of the answer under the champion, lower is better; None: not scored.
        fell_back: The challenger failed before a byte was sent, and the champion answered the client.
        replayed: A held-out prompt sent by the rollout itself.
        prompt_digest: SHA-256 of the prompt.
        prompt: Its text, if the settings keep it.
        answer: Text of the answer, if the settings keep it.
    """

    request_id: str
    session: str
    at: float
    variant: Variant
    version: str
    status: int
    rollout: str | None = None
    step: int | None = None
    weight: float = 0.0
    ttft_s: float | None = None
    tpot_s: float | None = None
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    finish_reason: str | None = None
    bad: tuple[str, ...] = ()
    nats_per_byte: float | None = None
    fell_back: bool = False
    replayed: bool = False
    prompt_digest: str = ""
    prompt: str | None = None
    answer: str | None = None


def prompt_digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class OutcomeWriter:
    """Appends the outcomes of one process, from a thread of its own.

    Attributes:
        store: The storage.
        alias: The public model name.
        dropped: Entries lost because the storage was away too long.
    """

    store: Store
    alias: str
    max_delay_s: float = MAX_DELAY_S
    dropped: int = 0
    _pending: list[Mapping[str, Any]] = field(default_factory=list)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _log: Log[int] | None = None
    _closed: bool = False

    def add(self, outcome: Outcome) -> None:
        """Queues an entry and returns at once."""
        with self._wake:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"outcomes-{self.alias}", daemon=True)
                self._thread.start()
            if len(self._pending) >= MAX_PENDING:
                del self._pending[0]
                self.dropped += 1
            self._pending.append(_packed(outcome))
            if len(self._pending) >= MAX_BATCH:
                self._wake.notify()

    def close(self) -> None:
        """Appends what is pending, and ends the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or len(self._pending) >= MAX_BATCH, timeout=self.max_delay_s)
                batch, closed = self._pending[:MAX_BATCH], self._closed
            batch = _fitting(batch)
            if batch and self._append(batch):
                with self._wake:
                    del self._pending[: len(batch)]
            elif closed:
                return

    def _append(self, batch: list[Mapping[str, Any]]) -> bool:
        try:
            if self._log is None:
                self._log = Log(self.store, f"outcomes/{self.alias}/{_writer_name()}", EntryCount())
            self._log.append(lambda _: Draft("outcomes", {"entries": batch}))
        except StoreError:
            # Requests go on while the storage is away; the entries wait in memory.
            logger.warning("outcomes of %r could not be appended, will try again", self.alias, exc_info=True)
            return False
        return True


@dataclass(slots=True)
class OutcomeReader:
    """Reads the outcomes of all writers of an alias, each once.

    Attributes:
        store: The storage.
        alias: The public model name.
        cursors: Next record by writer; kept by callers that read on later.
    """

    store: Store
    alias: str
    cursors: dict[str, int] = field(default_factory=dict)

    def read(self) -> Iterator[Outcome]:
        """Gives what was appended since the last call; a writer's entries in order, writers one after the other."""
        for name in list_logs(self.store, f"outcomes/{self.alias}/"):
            log = Log(self.store, name, EntryCount())
            for record in log.records(self.cursors.get(name, 0)):
                yield from (_unpacked(entry) for entry in record.data.get("entries", ()))
                self.cursors[name] = record.index + 1

    def skip(self) -> dict[str, int]:
        """Passes over all that there is, and gives the cursors: a later reader begins there."""
        for name in list_logs(self.store, f"outcomes/{self.alias}/"):
            self.cursors[name] = Log(self.store, name, EntryCount()).length
        return dict(self.cursors)

    def recent(self, num_records: int) -> Iterator[Outcome]:
        """Gives what the last records of each writer hold; moves no cursor."""
        for name in list_logs(self.store, f"outcomes/{self.alias}/"):
            log = Log(self.store, name, EntryCount())
            for record in log.records(max(0, log.length - num_records)):
                yield from (_unpacked(entry) for entry in record.data.get("entries", ()))


class EntryCount:
    """State of an outcome log: the number of its entries. Readers need no more, so opening one costs a snapshot."""

    def initial(self) -> int:
        return 0

    def apply(self, state: int, record: Record) -> int:
        return state + len(record.data.get("entries", ()))

    def dump(self, state: int) -> Any:
        return state

    def load(self, data: Any) -> int:
        return int(data)


_DEFAULTS: Mapping[str, Any] = {spec.name: spec.default for spec in fields(Outcome) if spec.default is not MISSING}
_NAMES = frozenset(spec.name for spec in fields(Outcome))


def _packed(outcome: Outcome) -> Mapping[str, Any]:
    entry = {
        name: value for name, value in asdict(outcome).items() if name not in _DEFAULTS or value != _DEFAULTS[name]
    }
    for name in ("prompt", "answer"):
        if entry.get(name):
            entry[name] = entry[name][:MAX_TEXT_CHARS]
    return entry


def _unpacked(entry: Mapping[str, Any]) -> Outcome:
    known = {name: value for name, value in entry.items() if name in _NAMES}
    return Outcome(**{**known, "bad": tuple(known.get("bad", ()))})


def _fitting(batch: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Gives the longest beginning of a batch that fits into a record."""
    room = MAX_BATCH_BYTES
    for num_taken, entry in enumerate(batch):
        room -= len(json.dumps(entry)) + 1
        if room < 0:
            return batch[: max(1, num_taken)]
    return batch


def _writer_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
