"""What people are told of a signal: that it got no run, once per cause and reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steps.common.signal_state import SignalState
from workflows.log import Draft, Notification

_WHY = {
    "active_run": "another run holds the alias",
    "cooldown": "the alias rests after its last run",
    "daily_budget": "the day's runs are used up",
    "too_few_rows": "it brings too few new rows",
}


@dataclass(frozen=True, slots=True)
class SignalTeller:
    """Says what a record of a signal log means to people.

    Attributes:
        alias: The public model name.
    """

    alias: str

    def __call__(self, state: SignalState, draft: Draft) -> Sequence[Notification]:
        if draft.kind != "suppressed":
            return ()
        found, reason = draft.data["signal"], draft.data["reason"]
        # A source that repeats itself each minute is told of once, as long as the state remembers it.
        if any((past.key, past.reason) == (found["key"], reason) for past in state.suppressed):
            return ()
        source, window = found["source"], found["window"]
        later = (
            "It waits, and gets its run by itself when that is over."
            if draft.data["pending"]
            else "It will not be repeated: start a run by hand if it matters (python -m workflows.run)."
        )
        active = state.active.run_id if state.active else ""
        holder = f" (run {active}, stage {state.active.stage})" if state.active else ""
        text = f"{_WHY.get(reason, reason).capitalize()}{holder}. {later} Cause: {found['reason']}, {window}."
        return (
            Notification(
                event="signal.suppressed",
                severity="warning" if reason == "daily_budget" else "info",
                title=f"Signal {source} for {self.alias} got no run: {reason.replace('_', ' ')}",
                text=text,
                run_id=active,
                alias=self.alias,
                facts={
                    "source": source,
                    "reason": reason,
                    "window": window,
                    "key": found["key"],
                    "champion": found["champion"],
                    "pending": draft.data["pending"],
                },
            ),
        )
