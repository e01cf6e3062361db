"""A record: one immutable fact of a log, and its bytes.

The bytes are compact ASCII JSON, with keys in the order they were given. A record names the SHA-256 of the bytes before
it, so a log is a hash chain: no record can be changed, dropped or inserted without breaking it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from workflows.log.errors import CorruptRecord, InvalidRecord, UnsupportedFormat

FORMAT = 1
SUPPORTED_FORMATS = (1,)
MAX_RECORD_BYTES = 2**20
"""Records are read one by one and folded in memory; bigger values belong into blobs."""

MAX_DEPTH = 100
FIRST = "0" * 64
"""What the first record names as the bytes before it."""

_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


@dataclass(frozen=True, slots=True)
class Draft:
    """What `decide` wants recorded.

    Attributes:
        kind: What happened, for example `step-finished`: up to 100 letters, digits and `_.:-`.
        data: JSON values with string keys and finite numbers.
        epoch: The claim under which it is written; 0 where a log knows no claims.
        notify: Notifications that this record causes; an outbox sends them.
    """

    kind: str
    data: Mapping[str, Any]
    epoch: int = 0
    notify: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A stored fact.

    Attributes:
        index: Its place, counted from 0.
        kind: What happened.
        data: JSON values.
        record_id: 32 random hex digits, by which a writer whose answer was lost knows its own record again.
        writer: Who wrote it.
        epoch: The claim under which it was written.
        at: Unix seconds by the writer's clock: for people, never for decisions.
        previous: SHA-256 of the bytes of the record before, 64 zeros for the first.
        notify: Notifications that it causes.
    """

    index: int
    kind: str
    data: Mapping[str, Any]
    record_id: str
    writer: str
    epoch: int
    at: float
    previous: str
    notify: tuple[Mapping[str, Any], ...] = field(default=())


def record_key(log: str, index: int) -> str:
    """The key of a record; 20 digits keep keys in order."""
    return f"{log}/{index:020}.json"


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: object) -> bytes:
    """JSON bytes that are equal for equal values (sorted keys, no spaces, ASCII): what digests are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(log: str, record: Record) -> bytes:
    """The bytes of a record, in the order of its keys.

    Raises:
        InvalidRecord: The kind is malformed, the data is no JSON, or the bytes are too many.
    """
    if not isinstance(record.kind, str) or not _KIND.fullmatch(record.kind):
        raise InvalidRecord(log, str(record.kind), f"a kind matches {_KIND.pattern}")
    notify = list(record.notify)
    for name, value in (("data", record.data), ("notify", notify)):
        if (reason := _not_json(value, name, 0)) is not None:
            raise InvalidRecord(log, record.kind, reason)
    fields = {
        "format": FORMAT,
        "index": record.index,
        "kind": record.kind,
        "record_id": record.record_id,
        "writer": record.writer,
        "epoch": record.epoch,
        "at": record.at,
        "previous": record.previous,
        "data": record.data,
        "notify": notify,
    }
    try:
        data = _ENCODER.encode(fields).encode("ascii")
    except ValueError as error:  # An integer of more digits than Python prints.
        raise InvalidRecord(log, record.kind, str(error)) from error
    if len(data) > MAX_RECORD_BYTES:
        raise InvalidRecord(
            log, record.kind, f"{len(data):,} bytes are more than {MAX_RECORD_BYTES:,}; put big values into blobs"
        )
    return data


def unseal(log: str, index: int, data: bytes, previous: str | None) -> Record:
    """The record in the bytes, checked against its place and, where `previous` is given, against the bytes before it.

    Raises:
        CorruptRecord: The bytes are torn, stand in the wrong place, or do not continue the chain.
        UnsupportedFormat: Another version wrote them.
    """
    try:
        raw = json.loads(data)
        found = raw["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRecord(log, index, f"it cannot be read ({len(data)} bytes): {error!r}") from error
    if found not in SUPPORTED_FORMATS:
        raise UnsupportedFormat(log, index, found, SUPPORTED_FORMATS)
    try:
        record = Record(
            raw["index"],
            raw["kind"],
            raw["data"],
            raw["record_id"],
            raw["writer"],
            raw["epoch"],
            raw["at"],
            raw["previous"],
            tuple(raw["notify"]),
        )
    except (KeyError, TypeError) as error:
        raise CorruptRecord(log, index, f"a field is missing: {error!r}") from error
    if record.index != index:
        raise CorruptRecord(log, index, f"it says that it is record {record.index}")
    if previous is not None and record.previous != previous:
        raise CorruptRecord(
            log, index, f"it follows bytes with digest {record.previous}, but those before it have {previous}"
        )
    return record


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__qualname__} is no JSON")


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain)


def _not_json(value: object, path: str, depth: int) -> str | None:  # noqa: PLR0911 - one a type
    """Why a value is no JSON that comes back as it was, or None."""
    cls = type(value)
    if cls is str or cls is int or cls is bool or value is None:  # Most are, and this is passed at every append.
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value}, not a finite number"
    if depth > MAX_DEPTH:
        return f"{path} is nested deeper than {MAX_DEPTH}"
    if cls is dict or isinstance(value, Mapping):
        mapping = cast(Mapping[Any, Any], value)
        for key, item in mapping.items():
            if type(key) is not str:
                return f"{path} has the key {key!r}, which is no string"
            if (reason := _not_json(item, f"{path}.{key}", depth + 1)) is not None:
                return reason
        return None
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            if (reason := _not_json(item, f"{path}[{number}]", depth + 1)) is not None:
                return reason
        return None
    return None if isinstance(value, str | int) else f"{path} is a {cls.__qualname__}, not JSON"
