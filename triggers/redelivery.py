"""Hands over, again and again while the door runs, what was decided and has not reached its run.

A decision is recorded before the run hears of it; if the storage does not answer in between, who decided has done their
part and nobody clicks a second time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from workflows.access import Approvals
from workflows.log import LogError

EVERY_S = 15.0

_log = logging.getLogger(__name__)


@contextmanager
def redelivering(approvals: Approvals, every_s: float = EVERY_S) -> Iterator[None]:
    """Looks for undelivered decisions at once and then every `every_s` seconds, in a thread, until the block ends."""
    stop = threading.Event()

    def look() -> None:
        while True:
            try:
                approvals.deliver_pending()
            except LogError as error:
                _log.warning("undelivered decisions cannot be looked for: %s", error)
            if stop.wait(every_s):
                return

    thread = threading.Thread(target=look, name="redelivery", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
