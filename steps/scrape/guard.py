"""Runs a command, and kills it with all its descendants when standard input closes.

    python -I -S guard.py COMMAND [ARGUMENT...]

Whoever starts the guard holds the other end of its input. When that process ends, even by kill -9, the kernel closes
the pipe, and nothing of the command is left: the guard is the reaper of all orphans below it (prctl(2),
PR_SET_CHILD_SUBREAPER), so no descendant can get away. Standard library only; Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.2


def guarded(command: Sequence[str]) -> list[str]:
    """Gives the command line that runs a command under a guard."""
    return [sys.executable, "-I", "-S", __file__, *command]


def main(command: Sequence[str]) -> int:
    """Runs the command; returns its exit code, or 0 when it was killed because the input closed."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    # The guard must outlive a Ctrl-C or a terminated parent: its work begins then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A session of its own, and an input that stays open as long as the guard lives.
    child = subprocess.Popen(list(command), stdin=subprocess.PIPE, start_new_session=True)
    code = _wait(child)
    _kill_descendants()
    return 0 if code is None else code


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    """Waits for the end of the child (its exit code) or of the input (None)."""
    while (code := child.poll()) is None:
        ready, _, _ = select.select([sys.stdin], [], [], _POLL_S)
        if ready and not os.read(sys.stdin.fileno(), 4096):
            return None
    return code


def _kill_descendants() -> None:
    while pids := list(_descendants(os.getpid())):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        select.select([], [], [], 0.02)


def _descendants(ancestor: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            # pid (name) state ppid: the name may hold spaces and brackets.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [ancestor]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            yield pid
            waiting.append(pid)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
