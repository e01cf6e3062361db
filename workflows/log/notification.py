"""What people are told: an entry of the field `notify` of the record that causes it.

A log is given a function `tell(state, draft)` when it is opened, which says what a record means to people. So what is
told stands in the same object as the fact itself: neither can be there without the other, whoever dies when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""From the least to the most urgent."""

EVENTS = (
    "run.started", "run.succeeded", "run.failed", "run.dead", "run.cancelled",
    "approval.requested", "approval.decided",
    "canary.started", "canary.promoted", "canary.rolled_back", "canary.held",
    "drift.alarm", "signal.suppressed", "schedule.missed",
)  # fmt: skip
"""What the loop tells of by itself; notices from outside may carry other names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One message to people, before anybody knows who receives it.

    Attributes:
        event: What happened, for example `run.failed`.
        severity: How urgent it is.
        title: One line.
        text: A few sentences: what happened, to what, in numbers, and what to do next.
        run_id: The run it is about, or empty.
        alias: The public model name it is about, or empty.
        facts: The same as JSON values, for programs.
    """

    event: str
    severity: Severity
    title: str
    text: str
    run_id: str = ""
    alias: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entry of a record."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Notification:
        """Reads an entry; what it lacks is empty, what it has too much is passed over."""
        severity = data.get("severity")
        return cls(
            event=str(data.get("event", "unknown")),
            severity=severity if severity in SEVERITIES else "info",
            title=str(data.get("title", "")),
            text=str(data.get("text", "")),
            run_id=str(data.get("run_id") or ""),
            alias=str(data.get("alias") or ""),
            facts=data.get("facts") or {},
        )
