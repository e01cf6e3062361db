"""A stored log as a whole, without a fold: read, checked, copied, found."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from workflows.log.errors import AlreadyExists, CorruptRecord, NotFound, UnsupportedFormat
from workflows.log.failpoints import failpoint
from workflows.log.reading import NUM_READERS, read_records
from workflows.log.record import FIRST, Record, digest, record_key, unseal
from workflows.log.snapshot import newest_length
from workflows.log.store import Store


@dataclass(frozen=True, slots=True)
class Verification:
    """What an offline check of a log found.

    Attributes:
        ok: Every record is whole and continues the chain.
        length: Records that can be trusted, counted from the first.
        first_bad: Index of the first record that cannot, or None.
        reason: What is wrong with it; empty if all is well.
        head: SHA-256 of the bytes of the last good record. Keep it elsewhere to notice a log cut short.
    """

    ok: bool
    length: int
    first_bad: int | None
    reason: str
    head: str


def stored_records(store: Store, name: str, start: int = 0) -> Iterator[Record]:
    """The records of a log from `start` on, each checked against the one before.

    Raises:
        CorruptRecord: At the first that cannot be trusted.
    """
    previous = FIRST if start == 0 else None
    for index, data in enumerate(read_records(store, name, start), start):
        yield unseal(name, index, data, previous)
        previous = digest(data)


def verify_log(store: Store, name: str) -> Verification:
    """Reads a whole log and checks each record against the digest that the next one keeps of it, and for gaps."""
    length, head = 0, FIRST
    try:
        for data in read_records(store, name, 0):
            unseal(name, length, data, head)
            length, head = length + 1, digest(data)
    except (CorruptRecord, UnsupportedFormat) as error:
        return Verification(False, length, length, str(error), head)
    beyond = next(
        (info for info in store.list(name, after=record_key(name, length)) if _is_record(name, info.key)), None
    )
    if beyond is not None or newest_length(store, name) > length:
        return Verification(
            False, length, length, f"log {name}: record {length} is missing, and there are later ones", head
        )
    return Verification(True, length, None, "", head)


def fork_log(store: Store, source: str, target: str, upto: int) -> Verification:
    """Copies the first `upto` records, verified, into a new log. Asking twice is safe.

    It is the answer to a corrupt record, for logs are never edited.

    Raises:
        CorruptRecord: One of them cannot be trusted.
        NotFound: The source is shorter.
        AlreadyExists: The target holds other records.
    """
    head = FIRST
    length = 0
    for data in read_records(store, source, 0):
        if length == upto:
            break
        unseal(source, length, data, head)
        key = record_key(target, length)
        try:
            store.create(key, data)
        except AlreadyExists:
            if store.get(key) != data:
                raise
        length, head = length + 1, digest(data)
        failpoint("log.fork.after-record")
    if length < upto:
        raise NotFound(store.uri, record_key(source, length))
    return Verification(True, length, None, "", head)


def list_logs(store: Store, prefix: str) -> list[str]:
    """Names of the logs below a folder, in order; not those inside of logs. Costs a listing a folder, a look a log."""
    prefix = prefix.strip("/")
    if prefix and store.head(record_key(prefix, 0)) is not None:
        return [prefix]
    names = [f"{prefix}/{name}" if prefix else name for name in store.folders(prefix)]
    if store.uri.startswith("file:") or len(names) < NUM_READERS:
        found = [list_logs(store, name) for name in names]
    else:
        with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="log-list") as pool:
            found = list(pool.map(lambda name: list_logs(store, name), names))
    return sorted(name for below in found for name in below)


def _is_record(name: str, key: str) -> bool:
    return key.removeprefix(f"{name}/").removesuffix(".json").isdigit()
