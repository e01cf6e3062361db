"""What can end a sweep.

SweepError
+-- NoFinishedTrialError   no trial came to an end that can be used
"""

from __future__ import annotations


class SweepError(Exception):
    """Base of the errors of this step."""


class NoFinishedTrialError(SweepError):
    """Every trial diverged or died."""

    def __init__(self, num_trials: int, reason: str) -> None:
        super().__init__(f"none of {num_trials} trials finished; the last reason: {reason}")
        self.num_trials = num_trials
        self.reason = reason

    def __reduce__(self) -> tuple[type[NoFinishedTrialError], tuple[int, str]]:
        return NoFinishedTrialError, (self.num_trials, self.reason)
