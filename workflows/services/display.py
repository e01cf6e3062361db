"""What the command shows: a line a service while they start, and the table of how they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from workflows.services.service import Status
from workflows.services.supervisor import Progress

_COLOURS = {
    "healthy": "green", "started": "green", "restarted": "green", "left": "green", "starts": "yellow",
    "unhealthy": "yellow", "died": "red", "failed": "red", "foreign": "red", "stopped": "dim", "waits": "dim",
    "skipped": "dim",
}  # fmt: skip


class Observer(Protocol):
    """Takes the progress of a service."""

    def __call__(self, progress: Progress) -> None: ...


@contextmanager
def live(names: Sequence[str]) -> Iterator[Observer]:
    """Shows progress as it comes: a table that moves on a terminal, else a line a change; all on standard error."""
    console = Console(file=sys.stderr, highlight=False)
    last = {name: Progress(name, "waits") for name in names}
    if not console.is_terminal:
        yield lambda progress: console.print(_line(progress), markup=False, soft_wrap=True)
        return
    with Live(_progress_table(last.values()), console=console, refresh_per_second=8) as shown:

        def observe(progress: Progress) -> None:
            last[progress.name] = progress
            shown.update(_progress_table(last.values()))

        yield observe


def status_table(found: Sequence[Status]) -> Table:
    """The table of `status`."""
    table = Table(box=None, pad_edge=False)
    for name in ("service", "state", "pid", "port", "memory", "up", ""):
        table.add_column(name, justify="left" if name in ("service", "state", "") else "right", no_wrap=name != "")
    for one in found:
        memory = f"{one.memory_bytes / 2**20:.0f} MB" if one.memory_bytes else ""
        table.add_row(
            one.name, f"[{_COLOURS[one.state]}]{one.state}", str(one.pid or ""), str(one.port or ""), memory,
            _duration(one.up_s) if one.pid else "", one.detail.replace("[", "\\["),
        )  # fmt: skip
    total = sum(one.memory_bytes for one in found)
    if total:
        table.add_row("", "", "", "", f"{total / 2**20:.0f} MB")
    return table


def _line(progress: Progress) -> str:
    took = f" after {progress.seconds:.1f} s" if progress.seconds else ""
    return f"{progress.name:<14}{progress.step}{took}" + (f": {progress.error}" if progress.error else "")


def _progress_table(last: Iterable[Progress]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for progress in last:
        took = f"{progress.seconds:.1f} s" if progress.seconds else ""
        first = progress.error.partition("\n")[0].replace("[", "\\[")
        table.add_row(progress.name, f"[{_COLOURS[progress.step]}]{progress.step}", took, first)
    return table


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours}h{minutes % 60:02d}m" if hours else f"{minutes}m{int(seconds % 60):02d}s"
