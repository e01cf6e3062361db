"""What can end an evaluation.

EvaluateError
+-- UnfitChampionError   the champion cannot be loaded, so there is nothing to compare with
"""

from __future__ import annotations


class EvaluateError(Exception):
    """Base of the errors of this step."""


class UnfitChampionError(EvaluateError):
    """The model that answers now is damaged in storage."""

    def __init__(self, version: str, damage: str) -> None:
        super().__init__(f"champion {version} cannot be loaded: {damage}")
        self.version = version
        self.damage = damage

    def __reduce__(self) -> tuple[type[UnfitChampionError], tuple[str, str]]:
        return UnfitChampionError, (self.version, self.damage)
