"""What can end a training.

TrainError
+-- DivergedError      the loss is not a number any more; more of the same does not help
+-- UnfinishedError    Ray Train ended without a model
"""

from __future__ import annotations


class TrainError(Exception):
    """Base of the errors of this step."""


class DivergedError(TrainError):
    """The loss left the numbers."""

    def __init__(self, step: int, rate: float) -> None:
        super().__init__(f"the loss of step {step} is not finite at learning rate {rate:g}")
        self.step = step
        self.rate = rate

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int, float]]:
        return DivergedError, (self.step, self.rate)


class UnfinishedError(TrainError):
    """The workers ended, and there is no trained model."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"training ended without a result in {folder}")
        self.folder = folder

    def __reduce__(self) -> tuple[type[UnfinishedError], tuple[str]]:
        return UnfinishedError, (self.folder,)
