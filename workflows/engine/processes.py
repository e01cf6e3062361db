"""Processes of this machine, named by pid and start time: another one that happens to get a pid is never touched."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from workflows.engine.claims import start_time
from workflows.engine.proc_stat import ProcStat, all_stats

KILL_S = 5.0
"""Longest time that a killed process may take to be gone."""

_POLL_S = 0.05


def descendants(pids: Iterable[int]) -> dict[int, int]:
    """Start time by pid of all children, and theirs."""
    children: dict[int, list[ProcStat]] = {}
    for process in all_stats():
        children.setdefault(process.parent, []).append(process)
    found: dict[int, int] = {}
    stack = list(pids)
    while stack:
        for child in children.get(stack.pop(), ()):
            if child.pid not in found:
                found[child.pid] = child.started
                stack.append(child.pid)
    return found


def end(processes: Mapping[int, int], grace_s: float, kill_s: float = KILL_S) -> bool:
    """Ends processes, gently and after a grace by force. True: none of them is left."""
    for ending, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, kill_s)):
        for pid, at in processes.items():
            if start_time(pid) == at:
                with suppress(ProcessLookupError):
                    os.kill(pid, ending)
        deadline = time.monotonic() + wait_s
        while (left := any(start_time(pid) == at for pid, at in processes.items())) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if not left:
            return True
    return False
