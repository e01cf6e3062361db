"""Measures operations of a benchmark: seconds, requests to the storage, memory.

The two kinds of storage are counted where they are asked, so whatever opens one of its own is counted too. A listing
counts as one request per 1,000 keys, as S3 answers it.
"""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from workflows.log.file_store import FileStore
from workflows.log.s3_store import S3Store

REQUESTS = ("create", "put", "upload", "get", "download", "head", "folders", "delete")
KEYS_PER_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One operation at one size.

    Attributes:
        operation: What was done.
        size: How much there was.
        seconds: How long it took, each of `times`.
        cpu_s: Processor time of this process meanwhile, each of `times`: on a busy machine the steadier number.
        times: How often it was done.
        requests: To the storage, by kind, all `times` together.
        peak_mib: How far memory rose above what it was before.
    """

    operation: str
    size: int
    seconds: float
    cpu_s: float
    times: int
    requests: dict[str, int]
    peak_mib: float


class Meter:
    """Prints a line of JSON for each operation that it measured.

    Args:
        size: How much there is in the storage that is measured.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._counts: Counter[str] = Counter()
        for store in (FileStore, S3Store):
            for name in REQUESTS:
                setattr(store, name, self._counted(name, getattr(store, name)))
            setattr(store, "list", self._counted_list(store.list))  # noqa: B010 - mypy knows it as a method

    @contextmanager
    def __call__(self, operation: str, *, times: int = 1) -> Iterator[None]:
        """Measures the block, which does the operation that many times."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # The high-water mark begins anew.
        resident = _resident_mib("VmRSS")
        self._counts.clear()
        began, cpu_began = time.perf_counter(), time.process_time()
        yield
        seconds, cpu_s = (time.perf_counter() - began) / times, (time.process_time() - cpu_began) / times
        peak = max(_resident_mib("VmHWM") - resident, 0.0)
        self.add(Measured(operation, self._size, seconds, cpu_s, times, dict(self._counts), peak))

    def add(self, measured: Measured) -> None:
        print(json.dumps(asdict(measured)), flush=True)

    def say(self, operation: str, seconds: float, cpu_s: float) -> None:
        """Prints times that were taken by other means."""
        self.add(Measured(operation, self._size, seconds, cpu_s, 1, {}, 0.0))

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._counts[name] += 1
            return method(*args, **kwargs)

        return counted

    def _counted_list(self, method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            self._counts["list"] += 1
            for number, found in enumerate(method(*args, **kwargs), 1):
                yield found
                if number % KEYS_PER_PAGE == 0:
                    self._counts["list"] += 1

        return counted


def _resident_mib(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) / 1024
