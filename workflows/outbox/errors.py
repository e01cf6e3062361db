"""What can go wrong around the outbox.

ValueError
`- InvalidNotice       a notice from outside breaks a rule; names the field and the rule
LookupError
`- NoSuchDelivery      the outbox holds no delivery of that id

A delivery that fails is no error: it is a record, and is tried again.
"""

from __future__ import annotations

from typing import Any


class InvalidNotice(ValueError):
    """A notice that cannot be posted."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")
        self.field, self.rule = field, rule

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, self.rule)


class NoSuchDelivery(LookupError):
    """No event of that id waits, or is dead, or was delivered lately."""

    def __init__(self, event_id: str, what: str) -> None:
        super().__init__(f"{event_id!r} {what}")
        self.event_id, self.what = event_id, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event_id, self.what)
