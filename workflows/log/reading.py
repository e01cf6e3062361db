"""Reads the objects of a log in order, several at a time where each costs a round trip."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from workflows.log.errors import NotFound
from workflows.log.record import record_key
from workflows.log.store import Store

NUM_READERS = 16
SEQUENTIAL = 32
"""Records read one by one before others are asked for ahead: a follower finds a few, and threads cost more to start."""


def read_records(store: Store, log: str, start: int) -> Iterator[bytes]:
    """The bytes of the records from `start` to the first free slot."""
    index = start
    while store.uri.startswith("file:") or index < start + SEQUENTIAL:
        data = read_slot(store, log, index)
        if data is None:
            return
        yield data
        index += 1
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="log-read") as pool:
        asked: deque[Future[bytes | None]] = deque()
        width = 4  # And few asked for in vain where the end is near.
        try:
            while True:
                while len(asked) < width:
                    asked.append(pool.submit(read_slot, store, log, index))
                    index += 1
                width = min(2 * width, 2 * NUM_READERS)
                data = asked.popleft().result()
                if data is None:
                    return
                yield data
        finally:
            for future in asked:
                future.cancel()


def read_slot(store: Store, log: str, index: int) -> bytes | None:
    """The bytes of one record, or None while the slot is free."""
    try:
        return store.get(record_key(log, index))
    except NotFound:
        return None
