"""Who may drive a run: one runner at a time, by a record; and how to tell that it has died.

The claim record decides, and every later record carries its epoch. The liveness object only decides how soon another
runner may try: a wrong guess costs time, never correctness, because the loser is fenced at its next record.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from workflows.engine.errors import RunBusy, RunOver
from workflows.engine.proc_stat import stat_of
from workflows.engine.state import RunState
from workflows.log import Draft, Fenced, NotFound, Store, StoreError

_logger = logging.getLogger(__name__)

LIVENESS_TTL_S = 30.0
"""A runner that has not been heard of for so long may be replaced; it renews three times within it."""


def identity() -> dict[str, Any]:
    """This process, as precisely as another one on the same machine can check."""
    return {
        "host": socket.gethostname(),
        "boot_id": _read("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": start_time(os.getpid()),
        "job": os.environ.get("RAY_JOB_SUBMISSION_ID", ""),
    }


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot: with the pid it names the process for good. None: no such process,
    or a zombie.
    """
    found = stat_of(pid)
    return None if found is None else found.started


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def known_dead(runner: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the runner surely is gone: it ran on this boot of this machine, in this pid namespace, and is not
    there.
    """
    same = all(runner.get(key) and runner.get(key) == here[key] for key in ("host", "boot_id", "pid_namespace"))
    return same and start_time(int(runner["pid"])) != runner.get("started")


def live_key(run_id: str, epoch: int) -> str:
    return f"runs/{run_id}/live/{epoch:08}"


def holder(store: Store, run_id: str, state: RunState, ttl_s: float) -> float | None:
    """How long the living holder of the run has been silent; None when nobody holds it."""
    if state.status != "running" or state.claim is None or known_dead(state.claim.runner, identity()):
        return None
    key = live_key(run_id, state.claim.epoch)
    info = store.head(key)
    silent = store.now() - (info.modified_at if info else state.claim.at)
    if silent > ttl_s or (info is not None and _has_ended(store, key)):
        return None
    return max(silent, 0.0)


def _has_ended(store: Store, key: str) -> bool:
    try:
        return bool(json.loads(store.get(key)).get("ended"))
    except NotFound:
        return False


def describe(runner: Mapping[str, Any]) -> str:
    return f"process {runner.get('pid')} on {runner.get('host')}"


def claim(
    store: Store,
    run_id: str,
    state: RunState,
    *,
    ttl_s: float,
    expected: int | None,
    at: float,
    changes: Mapping[str, Any],
) -> Draft:
    """The record that claims a run.

    Args:
        store: Where the run is.
        run_id: The run.
        state: The run as it is now.
        ttl_s: Silence after which a runner counts as dead.
        expected: Index of the claim that this one replaces, as the runner saw it first: losing the race to any other
        claim is
            a refusal, not a reason to try again.
        at: Now, by the store's clock.
        changes: Accepted code and graph, if any.

    Raises:
        RunOver: The run has ended for good.
        RunBusy: A living runner holds it, or another was faster.
    """
    if state.over:
        raise RunOver(run_id, state.status)
    current = state.claim.index if state.claim else None
    if state.claim is not None and current != expected:
        raise RunBusy(run_id, describe(state.claim.runner), 0.0)
    silent = holder(store, run_id, state, ttl_s)
    if silent is not None and state.claim is not None:
        raise RunBusy(run_id, describe(state.claim.runner), silent)
    return Draft("claimed", {"replaces": current, "runner": identity(), "at": at, **changes}, epoch=state.epoch + 1)


def guard(run_id: str, state: RunState, epoch: int) -> None:
    """Lets only the current claim write.

    Raises:
        Fenced: Another runner has claimed the run.
        RunOver: The run has ended, for example was cancelled.
    """
    if state.epoch != epoch:
        raise Fenced(f"runs/{run_id}", epoch, state.epoch)
    if state.status != "running":
        raise RunOver(run_id, state.status)


class Liveness:
    """Renews the liveness object in a thread, and keeps the distance between this clock and the store's."""

    def __init__(self, store: Store, run_id: str, epoch: int, *, ttl_s: float = LIVENESS_TTL_S) -> None:
        self._store = store
        self._key = live_key(run_id, epoch)
        self._identity = identity()
        self._interval_s = ttl_s / 3
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"liveness-{run_id}", daemon=True)
        self._offset_s = store.now() - time.time()

    def __enter__(self) -> Liveness:
        self._put()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is not None:
            # The run goes on elsewhere at once; had the process died, others would have to wait for its silence.
            try:
                self._put(ended=True)
            except (StoreError, OSError) as trouble:
                _logger.warning("could not say at %s that the runner has ended: %s", self._key, trouble)

    def now(self) -> float:
        """Store time, estimated without asking the store."""
        return time.time() + self._offset_s

    def _put(self, *, ended: bool = False) -> None:
        self._store.put(self._key, json.dumps({**self._identity, "ended": ended}).encode())

    def _renew(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self._put()
                self._offset_s = self._store.now() - time.time()
            except (StoreError, OSError) as error:
                # Nobody is harmed: silence for a whole TTL lets another runner try, and then this one is fenced.
                _logger.warning("could not renew %s: %s", self._key, error)
