"""What can be wrong with a model or its text.

LanguageModelError
+-- EmptyCorpusError       nothing to learn from, or nothing to be judged on
+-- UnsafeModelError       a model folder that must not be loaded: pickles, remote code, symbolic links, foreign files
+-- DamagedModelError      a model folder whose bytes or weights are not those that were saved
+-- MissingExtraError      a base model whose package is not installed
"""

from __future__ import annotations

from typing import Any


class LanguageModelError(Exception):
    """Base of the errors of this package. Its arguments are those of the subclass, so that Ray can carry it."""

    def __init__(self, message: str, *fields: Any) -> None:
        super().__init__(message)
        self._fields = fields

    def __reduce__(self) -> tuple[type[LanguageModelError], tuple[Any, ...]]:
        return type(self), self._fields


class EmptyCorpusError(LanguageModelError):
    """A split of a dataset that has too little text."""

    def __init__(self, dataset: str, split: str, reason: str) -> None:
        super().__init__(f"dataset {dataset} cannot be used: split {split} {reason}", dataset, split, reason)


class UnsafeModelError(LanguageModelError):
    """A file in a model folder that could run code or point elsewhere."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"model refused: {file}: {reason}", file, reason)
        self.file = file


class DamagedModelError(LanguageModelError):
    """A model folder that is not what was saved."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"model damaged: {file}: {reason}", file, reason)
        self.file = file


class MissingExtraError(LanguageModelError):
    """A part of Everloop that was not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"package {package} is missing: install the extra `{extra}` (uv sync --extra {extra})", extra, package
        )
