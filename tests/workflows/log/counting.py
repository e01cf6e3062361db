"""What the tests of the log share: a ledger as a fold, and a store in memory whose answers can be lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workflows.log import AlreadyExists, Closed, Draft, NotFound, ObjectInfo, Record, Refused, StoreUnavailable


class Overdrawn(Refused):
    """There is less in the account than was to be taken."""


@dataclass(frozen=True)
class Account:
    """State of the ledger."""

    balance: int = 0
    operations: tuple[str, ...] = ()
    is_closed: bool = False


class Ledger:
    """Folds deposits, withdrawals and a closing."""

    def initial(self) -> Account:
        return Account()

    def apply(self, state: Account, record: Record) -> Account:
        if record.kind == "closed":
            return Account(state.balance, state.operations, True)
        if record.kind != "moved":
            return state
        return Account(
            state.balance + record.data["amount"], (*state.operations, record.data["operation"]), state.is_closed
        )

    def dump(self, state: Account) -> Any:
        return {"balance": state.balance, "operations": list(state.operations), "is_closed": state.is_closed}

    def load(self, data: Any) -> Account:
        return Account(data["balance"], tuple(data["operations"]), data["is_closed"])


def move(operation: str, amount: int) -> Callable[[Account], Draft | None]:
    """Moves money once: nothing to do if it was moved; refused if the account is closed or would be overdrawn."""

    def decide(state: Account) -> Draft | None:
        if operation in state.operations:
            return None
        if state.is_closed:
            raise Closed("ledger", "closed")
        if state.balance + amount < 0:
            raise Overdrawn(f"{state.balance} is less than {-amount}")
        return Draft("moved", {"operation": operation, "amount": amount})

    return decide


def close(state: Account) -> Draft | None:
    return None if state.is_closed else Draft("closed", {})


@dataclass
class MemoryStore:
    """A store in memory. `faults` says what becomes of the n-th create.

    `lost`: written, no answer. `failed`: not written, no answer. `late`: no answer, and written by itself
    a little later, unless the key is taken by then.
    """

    uri: str = "memory://"
    faults: Mapping[int, str] = field(default_factory=dict)
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    num_creates: int = 0
    num_gets: int = 0
    _in_flight: list[tuple[int, str, bytes]] = field(default_factory=list)
    _num_operations: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            self._pass()
            fault = self.faults.get(self.num_creates)
            self.num_creates += 1
            if fault == "failed":
                raise StoreUnavailable(self.uri, key, "injected")
            if fault == "late":
                self._in_flight.append((self._num_operations + 3, key, bytes(data)))
                raise StoreUnavailable(self.uri, key, "injected")
            if key in self.objects:
                raise AlreadyExists(self.uri, key)
            self.objects[key] = (bytes(data), time.time())
            if fault == "lost":
                raise StoreUnavailable(self.uri, key, "injected")

    def put(self, key: str, data: bytes) -> None:
        with self._lock:
            self.objects[key] = (bytes(data), time.time())

    def get(self, key: str) -> bytes:
        with self._lock:
            self._pass()
            self.num_gets += 1
            if key not in self.objects:
                raise NotFound(self.uri, key)
            return self.objects[key][0]

    def head(self, key: str) -> ObjectInfo | None:
        with self._lock:
            found = self.objects.get(key)
            return None if found is None else ObjectInfo(key, len(found[0]), found[1])

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        with self._lock:
            keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
            return iter([ObjectInfo(key, len(self.objects[key][0]), self.objects[key][1]) for key in keys])

    def folders(self, prefix: str) -> list[str]:
        with self._lock:
            folder = f"{prefix}/" if prefix else ""
            below = (key.removeprefix(folder) for key in self.objects if key.startswith(folder))
            return sorted({key.partition("/")[0] for key in below if "/" in key})

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(key, None)

    def upload(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def now(self) -> float:
        return time.time()

    def _pass(self) -> None:
        self._num_operations += 1
        landed = [write for write in self._in_flight if write[0] <= self._num_operations]
        self._in_flight = [write for write in self._in_flight if write[0] > self._num_operations]
        for _, key, data in landed:
            self.objects.setdefault(key, (data, time.time()))
