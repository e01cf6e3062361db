"""What things cost as they grow: seconds, requests to the storage and memory, at several sizes up to a large cluster's.

    python -m tests.bench.scale [--quick] [--case NAME ...] [--storage URI]

| case | grows | sizes |
| --- | --- | --- |
| journal | steps of one run | up to 100,000 |
| runs | finished runs in the storage | up to 10,000 |
| reconcile | runs under way, each with an alias of its own | up to 1,000 |
| dataset | files of one dataset version | up to 4,096, the most that the settings allow |
| tree | files of a tree, such as a model or a source bundle | up to 100,000 |
| sources | sites of a crawl, of twenty pages each | up to 1,000 |
| outbox | notifications that wait | up to 10,000 |

Each size is measured in a process and a storage of its own, by default a folder. The last column says how processor
time and requests grow from the last size but one to the last: as the size to the power of that number, so 1.0 is linear
and 0.0 constant. With a storage of `s3://` only the smaller sizes are measured.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.parts.meter import Measured, Meter

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES: dict[str, tuple[int, ...]] = {
    "journal": (1_000, 10_000, 100_000),
    "runs": (100, 1_000, 10_000),
    "reconcile": (10, 100, 1_000),
    "dataset": (64, 512, 4_096),
    "tree": (1_000, 10_000, 100_000),
    "sources": (10, 100, 1_000),
    "outbox": (100, 1_000, 10_000),
}
MAX_BY_REQUESTS = {"journal": 10_000, "runs": 1_000, "reconcile": 100, "tree": 1_000, "sources": 100, "outbox": 1_000}
"""Largest sizes with a storage that is asked over the network."""


def main() -> None:
    """Prints a table for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="without the largest size, a minute in all")
    parser.add_argument("--case", nargs="+", choices=SIZES, default=list(SIZES), help="by default all")
    parser.add_argument("--storage", default="", help="a storage URI; by default folders that are removed afterwards")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        from tests.bench.parts.scale_cases import CASES

        case, storage, size = given.child
        CASES[case](Meter(int(size)), storage, int(size))
        return
    for case in given.case:
        sizes = SIZES[case][:-1] if given.quick else SIZES[case]
        if given.storage:
            sizes = tuple(size for size in sizes if size <= MAX_BY_REQUESTS.get(case, size))
        found: dict[str, list[Measured]] = {}
        for size in sizes:
            for measured in _measured(case, given.storage, size):
                found.setdefault(measured.operation, []).append(measured)
        _print(case, sizes, found)


def _measured(case: str, storage: str, size: int) -> Iterator[Measured]:
    folder = Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        own = _below(storage, secrets.token_hex(4)) if storage else f"file://{folder}"
        command = [sys.executable, "-m", "tests.bench.scale", "--child", case, own, str(size)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("{"):
                    yield Measured(**json.loads(line))
        if child.returncode:
            raise SystemExit(f"{case} of {size:,} ended with {child.returncode}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _below(storage: str, name: str) -> str:
    before, mark, options = storage.partition("?")
    return f"{before.rstrip('/')}/{name}{mark}{options}"


def _print(case: str, sizes: Sequence[int], found: dict[str, list[Measured]]) -> None:
    columns = [f"{size:,}" for size in sizes]
    print(f"\n| {case} | " + " | ".join(columns) + " | growth: time, requests |")
    print("| --- | " + " | ".join("---" for _ in columns) + " | --- |")
    for operation, rows in found.items():
        cells = [_cell(row) for row in rows]
        print(f"| {operation} | " + " | ".join(cells) + f" | {_growth(rows)} |", flush=True)


def _cell(row: Measured) -> str:
    requests = sum(row.requests.values()) / row.times
    parts = [f"{_time(row.seconds)} (CPU {_time(row.cpu_s)})"]
    if row.requests:
        parts.append(f"{requests:,.0f} req" if requests >= 10 or requests == int(requests) else f"{requests:.1f} req")
    if row.peak_mib >= 5:
        parts.append(f"{row.peak_mib:,.0f} MiB")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2f} ms"


def _growth(rows: Sequence[Measured]) -> str:
    if len(rows) < 2:
        return "-"
    before, after = rows[-2:]
    steps = math.log(after.size / before.size)
    time_power = math.log(max(after.cpu_s, 1e-6) / max(before.cpu_s, 1e-6)) / steps
    asked = [sum(row.requests.values()) / row.times for row in (before, after)]
    request_power = f"{math.log(asked[1] / asked[0]) / steps:.1f}" if all(asked) else "-"
    return f"{time_power:.1f}, {request_power}"


if __name__ == "__main__":
    main()
