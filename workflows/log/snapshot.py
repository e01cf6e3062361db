"""Snapshots: a state folded up to some record, so that opening a log need not read it from the start.

They are derived: losing or distrusting one costs time only. Each kind of fold has its own, because two readers of one
log may keep different states.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workflows.log.errors import NotFound
from workflows.log.failpoints import failpoint
from workflows.log.record import digest
from workflows.log.store import Store

FORMAT = 1
EVERY = 1_000
"""Records between snapshots, at least."""

SHARE = 32
"""Nor are there more than one for so large a part of the log, or writing them would cost the square of its length."""

MAX_OPENED = 64
"""Who had to read more records than this to open a log for a write spares the next one: most logs are short, and opened
anew by each command.
"""

KEPT = 2
"""The newest and one before it, for readers that are about to open it."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folded state.

    Attributes:
        length: Records folded.
        head: SHA-256 of the bytes of the last of them.
        state: The state as `Fold.dump` gave it.
    """

    length: int
    head: str
    state: Any


def fold_name(fold: object) -> str:
    """Names the code that made a state: module, class, and its attribute `version` (default 1)."""
    cls = type(fold)
    return f"{cls.__module__}:{cls.__qualname__}:{getattr(fold, 'version', 1)}"


def write_snapshot(store: Store, log: str, fold: str, snapshot: Snapshot) -> None:
    """Writes a snapshot and removes old ones."""
    state = json.dumps(snapshot.state, separators=(",", ":")).encode("ascii")
    header = {
        "format": FORMAT,
        "fold": fold,
        "length": snapshot.length,
        "head": snapshot.head,
        "state_sha256": digest(state),
    }
    folder = _folder(log, fold)
    failpoint("log.snapshot.before-put")
    store.put(f"{folder}/{snapshot.length:020}.json", json.dumps(header).encode("ascii") + b"\n" + state)
    failpoint("log.snapshot.after-put")
    keys = [found.key for found in store.list(folder)]
    for key in keys[:-KEPT]:
        store.delete(key)


def read_snapshots(store: Store, log: str, fold: str) -> Iterator[Snapshot]:
    """Snapshots of a fold that can be read, newest first."""
    keys = [found.key for found in store.list(_folder(log, fold))]
    for key in reversed(keys):
        try:
            header_bytes, _, state = store.get(key).partition(b"\n")
            header = json.loads(header_bytes)
            if header["format"] != FORMAT or header["fold"] != fold or header["state_sha256"] != digest(state):
                raise ValueError("header and state do not fit")  # noqa: TRY301
            yield Snapshot(int(header["length"]), str(header["head"]), json.loads(state))
        except NotFound:
            continue  # Removed as old since it was listed.
        except (ValueError, KeyError, TypeError) as error:
            _logger.warning("log %s: snapshot %s is passed over: %s", log, key, error)


def newest_length(store: Store, log: str) -> int:
    """Records that must exist because some snapshot counted them; 0 without snapshots."""
    lengths = [found.key.rpartition("/")[2].removesuffix(".json") for found in store.list(f"{log}/snapshots")]
    return max((int(length) for length in lengths if length.isdigit()), default=0)


def _folder(log: str, fold: str) -> str:
    return f"{log}/snapshots/{hashlib.sha256(fold.encode()).hexdigest()[:12]}"
