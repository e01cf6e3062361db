"""What people are told of drift: one message a confirmed alarm.

The prompts that look most unlike stay in the log: they are what clients wrote, and a message goes to other systems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflows.log import Draft, Notification

if TYPE_CHECKING:
    from steps.monitor.monitor_log import MonitorState


@dataclass(frozen=True, slots=True)
class MonitorTeller:
    """Says what a record of a monitor log means to people.

    Attributes:
        alias: The public model name.
    """

    alias: str

    def __call__(self, state: MonitorState, draft: Draft) -> Sequence[Notification]:
        if draft.kind != "scanned" or state.watched is None:
            return ()
        return tuple(self._alarm(state, alarm) for alarm in draft.data["alarms"])

    def _alarm(self, state: MonitorState, alarm: Mapping[str, Any]) -> Notification:
        assert state.watched is not None, "an alarm has a reference that it is about"
        champion, run_length = state.watched.champion, state.watched.run_length
        detector, number = alarm["detector"], alarm["number"]
        detail = ", ".join(f"{name} {value:.3g}" for name, value in alarm["detail"].items())
        text = (
            f"{detector} is at {alarm['statistic']:.4g}, above its threshold of {alarm['threshold']:.4g}, in two "
            f"windows on end after {alarm['num_prompts']:,} prompts; without drift that is expected once in "
            f"{run_length:,.0f} sessions. {f'What moved most: {detail}. ' if detail else ''}"
            f"A retraining run starts by itself as soon as the alias may have one."
        )
        return Notification(
            event="drift.alarm",
            severity="warning",
            title=f"Requests to {self.alias} have drifted from what version {champion} was released on",
            text=text,
            alias=self.alias,
            facts={
                "detector": detector,
                "statistic": alarm["statistic"],
                "threshold": alarm["threshold"],
                "number": number,
                "prompts": alarm["num_prompts"],
                "run_length": run_length,
                "champion": champion,
                "reference": state.watched.reference.sha256,
            },
        )
