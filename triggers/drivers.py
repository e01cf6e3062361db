"""Drives runs in processes of their own. They outlive the door: what it started goes on while it restarts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path


class Drivers:
    """Starts `python -m workflows.run --resume` for a run; two for the same run do no harm, the second one gives way.

    Args:
        storage: Storage URI.
        logs: Folder for what the processes say, one file a run.
    """

    def __init__(self, storage: str, logs: Path) -> None:
        self._storage = storage
        self._logs = logs

    def launch(self, run_id: str) -> int:
        """Starts a driver and returns its process id. It has a session of its own, so no signal to the door meets it.

        If it dies, the reconciler takes the run up.
        """
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "workflows.run", "--resume", run_id, "--storage", self._storage, "--json"]
        log = os.open(self._logs / f"{run_id}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
            )
        finally:
            os.close(log)
        # Nobody else waits for it, and a child that nobody waits for stays in the process table.
        threading.Thread(target=process.wait, name=f"driver-{run_id}", daemon=True).start()
        return process.pid
