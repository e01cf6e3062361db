"""What can go wrong between Airflow and its neighbours.

EverloopError
  Unreachable      no usable answer now: asked again until a limit
  Refused          the answer is final: asking again does not help
    Unauthorized   a wrong or missing token (401, 403)
    BadRequest     the request itself is wrong (400)
"""

from __future__ import annotations

from typing import Any


class EverloopError(Exception):
    """Anything that a neighbour did not do."""


class Unreachable(EverloopError):
    """A neighbour gave no usable answer; it may give one later."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} gave no usable answer: {why}")
        self.what, self.why = what, why

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.why)


class Refused(EverloopError):
    """A neighbour's answer is no, and will be no again."""


class Unauthorized(Refused):
    """A token is wrong or missing. The token itself is never part of the message."""

    def __init__(self, what: str, status: int, connection: str) -> None:
        super().__init__(f"{what} refused the token of the connection {connection!r} with {status}")
        self.what, self.status, self.connection = what, status, connection

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.status, self.connection)


class BadRequest(Refused):
    """A neighbour does not understand the request."""

    def __init__(self, what: str, status: int, answer: str) -> None:
        super().__init__(f"{what} answered {status}: {answer}")
        self.what, self.status, self.answer = what, status, answer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.status, self.answer)
