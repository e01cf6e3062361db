"""Processes of this machine as the kernel tells of them: proc_pid_stat(5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcStat:
    """A living process.

    Attributes:
        pid: Its id.
        parent: Id of its parent.
        session: Id of its session.
        started: Clock ticks since boot, which with the pid name it for good.
    """

    pid: int
    parent: int
    session: int
    started: int


def stat_of(pid: int) -> ProcStat | None:
    """A process; None: no such process. A zombie counts as gone.

    The fields are counted behind the command name, which may hold spaces and brackets.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return None
    return ProcStat(pid, int(fields[1]), int(fields[3]), int(fields[19]))


def all_stats() -> Iterator[ProcStat]:
    """Every living process."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (found := stat_of(int(folder.name))) is not None:
            yield found
