"""Errors of serving.

DeployError
+-- MissingExtraError      a package of an optional extra is not installed
+-- EndpointNotReadyError       an application did not come up in time, or cannot
+-- SmokeTestFailedError        the first model did not answer as it should
+-- AnswerBrokenError           a model failed while it answered
"""

from __future__ import annotations

from typing import Any


class DeployError(Exception):
    """Base of the errors of this step."""


class MissingExtraError(DeployError):
    """An optional package is needed and missing."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"package {package!r} is missing: install the extra {extra!r} (uv sync --extra {extra})")
        self.extra, self.package = extra, package

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.extra, self.package)


class EndpointNotReadyError(DeployError):
    """An application did not come up."""

    def __init__(self, application: str, status: str, message: str, waited_s: float) -> None:
        super().__init__(
            f"application {application!r} is {status} after {waited_s:.0f} s: {message or 'no reason given'}"
        )
        self.application, self.status, self.message, self.waited_s = application, status, message, waited_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.application, self.status, self.message, self.waited_s)


class SmokeTestFailedError(DeployError):
    """A model that is to be released first did not answer."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"model version {version!r} failed its smoke test: {reason}")
        self.version, self.reason = version, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.version, self.reason)


class AnswerBrokenError(DeployError):
    """A model failed while it answered; the cause is chained."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"model version {version!r} failed: {reason}")
        self.version, self.reason = version, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.version, self.reason)
