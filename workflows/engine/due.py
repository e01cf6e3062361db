"""Which runs nobody drives and have something to do, for who asks in every round: one read a run that did not change.

Nothing is written. What is known of a run is kept from look to look, and only what others have written since is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from workflows.engine.claims import holder
from workflows.engine.schedule import is_due
from workflows.engine.state import RunFold, RunState
from workflows.log import CorruptRecord, Log

if TYPE_CHECKING:
    from workflows.engine.runs import Runs

_logger = logging.getLogger(__name__)


class DueRuns:
    """Follows runs. Not for several threads at once.

    Args:
        runs: Of that storage.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs, self._store = runs, runs.store
        self._fold = RunFold(runs.blobs)
        self._followed: dict[str, Log[RunState]] = {}

    def look(self, among: Iterable[str], *, include_failed: bool = False) -> list[str]:
        """Those of the runs that are due, in their order. What is left out of `among` is forgotten.

        Args:
            among: Ids.
            include_failed: Whether a run that has failed has something to do.
        """
        asked = list(among)
        self._followed = {run_id: self._followed.get(run_id) or self._opened(run_id) for run_id in asked}
        return [run_id for run_id in asked if self._is_due(run_id, include_failed)]

    def _opened(self, run_id: str) -> Log[RunState]:
        return Log(self._store, f"runs/{run_id}", self._fold)

    def _is_due(self, run_id: str, include_failed: bool) -> bool:
        try:
            state = self._followed[run_id].refresh()
        except CorruptRecord as error:
            # A run that is torn must not keep the others from being taken up.
            _logger.warning("run %s is passed over: %s", run_id, error)
            return False
        if not state.exists:
            return False
        if state.status == "parked":
            return is_due(self._fold, state, self._store.now())
        if state.status == "running":
            return holder(self._store, run_id, state, self._runs.pace.ttl_s) is None
        return state.status == "pending" or (include_failed and state.status == "failed")
