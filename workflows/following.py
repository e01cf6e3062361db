"""How far a run is, in the words of the signal log."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from steps.common import signals
from steps.common.signals import SignalState, Stage
from workflows.engine import RunView
from workflows.log import Log

STAGES: Mapping[str, Stage] = {
    "scrape": "collecting",
    "validate": "collecting",
    "version": "collecting",
    "tune": "training",
    "train": "training",
    "evaluate": "evaluating",
    "deploy": "shadow",
    "canary": "canary",
}
"""What the steps' names mean to the signal log."""


class Follower:
    """Tells the signal log how far a run is, and passes the view on.

    Args:
        log: Of the run's alias.
        run_id: The run.
        observer: Is shown each view.
    """

    def __init__(self, log: Log[SignalState], run_id: str, observer: Callable[[RunView], None] | None) -> None:
        self._log, self._run_id, self._observer = log, run_id, observer
        self._stage: Stage | None = None

    def __call__(self, view: RunView) -> None:
        """Takes a look in."""
        for step in view.steps:
            stage = STAGES.get(step.name.split("/")[-1].split("~")[0])
            if step.status in ("running", "succeeded") and stage and stage != self._stage and self._is_later(stage):
                signals.advanced(self._log, self._run_id, stage)
                self._stage = stage
        if self._observer:
            self._observer(view)

    def _is_later(self, stage: Stage) -> bool:
        return self._stage is None or signals.STAGES.index(stage) > signals.STAGES.index(self._stage)
