"""The errors of access control.

- AccessError
  - PolicyError              a policy or schema file is wrong; nothing is loaded
  - Denied                   a decision was "no"
  - AuditUnavailable         a decision could not be written down, so it does not hold
  - SigningKeyError          the key that signs audit checkpoints cannot be used
  - PrincipalError           the directory of principals is wrong
  - CredentialError          the storage gave no temporary credentials
  - ApprovalRefused          also a `workflows.log.Refused`
    - UnknownToken           never issued, or mistyped
    - TokenExpired
    - TokenSpent             somebody has decided already
    - ApprovalVoid           the artifact changed after the request
  - WebhookRefused           a delivery that is not what it claims to be; answer 401

All of them pickle; none carries a secret in its message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workflows.log import Refused


class AccessError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (type(self), self.args, self.__dict__))


def _restore(cls: type[AccessError], args: tuple[Any, ...], attributes: dict[str, Any]) -> AccessError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class PolicyError(AccessError):
    """A policy or schema file is wrong. Nothing of the set is used."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class Denied(AccessError):
    """A decision was "no". The message names the question, never why a policy said so: that is in the audit log."""

    def __init__(self, principal: str, action: str, resource: str, policies: tuple[str, ...] = ()) -> None:
        super().__init__(f"{principal} may not {action} {resource}")
        self.principal = principal
        self.action = action
        self.resource = resource
        self.policies = policies


class AuditUnavailable(AccessError):
    """A decision could not be written to the audit log, so it does not hold."""

    def __init__(self, log: str, reason: str) -> None:
        super().__init__(f"the audit log {log!r} cannot be written ({reason}); nothing is decided until it can")
        self.log = log
        self.reason = reason


class SigningKeyError(AccessError):
    """The key that signs audit checkpoints cannot be used."""

    def __init__(self, origin: Path | str, reason: str) -> None:
        super().__init__(f"signing key {origin}: {reason}")
        self.origin = origin
        self.reason = reason


class PrincipalError(AccessError):
    """An entry of the directory of principals is wrong."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class CredentialError(AccessError):
    """The storage gave no temporary credentials."""

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"no temporary credentials from {endpoint}: {reason}")
        self.endpoint = endpoint
        self.reason = reason


class ApprovalRefused(AccessError, Refused):
    """Base: a token did not lead to a decision."""


class UnknownToken(ApprovalRefused):
    """No such token was issued."""

    def __init__(self) -> None:
        super().__init__("this approval link is not known")


class TokenExpired(ApprovalRefused):
    """The token came too late."""

    def __init__(self, run: str, gate: str) -> None:
        super().__init__(f"the approval link of gate {gate!r} of run {run!r} has expired")
        self.run = run
        self.gate = gate


class TokenSpent(ApprovalRefused):
    """Somebody has decided already."""

    def __init__(self, run: str, gate: str, by: str) -> None:
        super().__init__(f"gate {gate!r} of run {run!r} was decided already by {by}")
        self.run = run
        self.gate = gate
        self.by = by


class ApprovalVoid(ApprovalRefused):
    """The artifact is another one than was asked about."""

    def __init__(self, run: str, gate: str) -> None:
        super().__init__(
            f"the artifact at gate {gate!r} of run {run!r} has changed since the request; it must be asked for again"
        )
        self.run = run
        self.gate = gate


class WebhookRefused(AccessError):
    """A delivery that is not what it claims to be. The answer is 401, whatever the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"webhook refused: {reason}")
        self.reason = reason
