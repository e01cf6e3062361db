"""Processes of services: started apart from the command that starts them, found again by pid and start time.

Each carries the folder of its service in its environment, and so do its children; that mark, not a name or a port,
says which processes are ours to end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from workflows.engine.claims import start_time
from workflows.engine.proc_stat import all_stats
from workflows.engine.processes import end

MARK = "EVERLOOP_SERVICE"


@dataclass(frozen=True, slots=True)
class Started:
    """A process as recorded when it was started.

    Attributes:
        pid: Its id, and that of its session.
        started: Clock ticks since boot, which with the pid name it for good.
        at: Unix seconds.
        digest: SHA-256 over its command, environment and files: a changed service has another one.
    """

    pid: int
    started: int
    at: float
    digest: str

    def alive(self) -> bool:
        """Whether exactly this process runs."""
        return start_time(self.pid) == self.started


def start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, *, cwd: Path, digest: str = ""
) -> Started:
    """Starts a process in a session of its own, its output in `<folder>/log`, and records it in `<folder>/pid`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: str(folder)},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # Reaped when it ends, should this process live longer.
    threading.Thread(target=process.wait, name=f"wait-{folder.name}", daemon=True).start()
    started = Started(process.pid, start_time(process.pid) or 0, time.time(), digest)
    temporary = folder / "pid.new"
    temporary.write_text(json.dumps(asdict(started)), encoding="utf-8")
    temporary.replace(folder / "pid")
    return started


def recorded(folder: Path) -> Started | None:
    """What was started last in a folder and not stopped since, whether it runs or not."""
    try:
        return Started(**json.loads((folder / "pid").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def members(folder: Path) -> dict[int, int]:
    """Start time by pid of all processes that carry the mark of a folder."""
    mark = f"{MARK}={folder}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        at = start_time(int(entry.name))
        if at is not None and mark in environment.split(b"\0"):
            found[int(entry.name)] = at
    return found


def session_of(leader: int) -> dict[int, int]:
    """Start time by pid of the living processes of a session; its number is not used anew while one of them lives."""
    return {process.pid: process.started for process in all_stats() if process.session == leader}


def stop(folder: Path, grace_s: float) -> bool:
    """Ends the process of a folder, then what it left behind, and forgets it. True: something was running."""
    found = recorded(folder)
    leader = {found.pid: found.started} if found is not None and found.alive() else {}
    end(leader, grace_s)
    left = members(folder)
    if not end(left, grace_s):
        return True
    (folder / "pid").unlink(missing_ok=True)
    return bool(leader or left)


def memory_bytes(pids: Sequence[int]) -> int:
    """Proportional set size: shared pages are counted once over all processes that share them."""
    total = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def log_tail(folder: Path, *, lines: int = 15) -> str:
    """The end of a service's log."""
    try:
        with (folder / "log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 8192))
            return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def trim_log(folder: Path, max_bytes: int) -> bool:
    """Begins the log of a service anew once it is longer than `max_bytes`, and keeps the one before it as `log.1`.

    Copied and cut, as logrotate(8) does by `copytruncate`: the process keeps its descriptor, which only appends. What
    it writes between the two is lost.
    """
    log = folder / "log"
    try:
        if log.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    shutil.copyfile(log, folder / "log.new")
    os.truncate(log, 0)
    (folder / "log.new").replace(folder / "log.1")
    return True


def port_holder(port: int) -> int | None:
    """The process that listens on a port of this machine: its pid, 0 if it cannot be told, None if nobody does."""
    inodes = {inode for family in ("tcp", "tcp6") for inode in _listening(family, port)}
    if not inodes:
        return None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            for descriptor in (entry / "fd").iterdir():
                with suppress(OSError):
                    if descriptor.readlink().name in inodes:
                        return int(entry.name)
    return 0


def _listening(family: str, port: int) -> list[str]:
    """Sockets in state LISTEN (0A) on a port; proc_pid_net(5). Those bound to a foreign address count too: safe."""
    try:
        rows = Path(f"/proc/net/{family}").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    fields = [row.split() for row in rows]
    return [f"socket:[{row[9]}]" for row in fields if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


def describe(pid: int) -> str:
    """A process for people."""
    if pid == 0:
        return "a process of another user"
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        command = ""
    return f"process {pid} ({command[:80]})" if command else f"process {pid}"
