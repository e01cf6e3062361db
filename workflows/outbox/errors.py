"""What can go wrong around the outbox.

ValueError
|- SettingsError       the file of settings cannot be used; names the key and the rule
`- InvalidNotice       a notice from outside breaks a rule; names the field and the rule
LookupError
`- NoSuchDelivery      the outbox holds no delivery of that id

A delivery that fails is no error: it is a record, and is tried again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SettingsError(ValueError):
    """Settings that cannot be used. Secrets are not in the message."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


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
