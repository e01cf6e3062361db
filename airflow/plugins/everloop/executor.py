"""Airflow's LocalExecutor, but for a queue that a killed worker leaves locked.

A worker that waits for work holds the lock of the queue while it reads (`multiprocessing.SimpleQueue.get`). Killed with
-9, or for memory, it takes the lock along: no other worker, and none that is forked later, ever reads again, and every
task stays queued while all components look healthy.
"""

from __future__ import annotations

import os

from airflow.executors.local_executor import LocalExecutor

KILLED = 70  # EX_SOFTWARE of sysexits.h


class FailFastLocalExecutor(LocalExecutor):
    """Ends the scheduler with `KILLED` once one of its workers was killed.

    Whoever started the scheduler starts it again, with a queue of its own, and what was queued or running is adopted as
    after any other death of a scheduler. `end` would wait for workers that never come back, so nothing is waited for.
    """

    def _check_workers(self) -> None:
        killed = sorted(pid for pid, process in self.workers.items() if (process.exitcode or 0) < 0)
        if killed:
            self.log.critical("Workers %s were killed, and their queue may be locked: the scheduler ends", killed)
            for process in self.workers.values():
                process.kill()
            os._exit(KILLED)
        super()._check_workers()
