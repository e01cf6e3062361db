"""What people are told of a run: the notification in the record that causes it.

The engine tells of runs, which it knows. What the steps found out their results say themselves: a result whose class
has a method `headline() -> str` is quoted. What a run was labelled with at its start stands in each notification.
"""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from workflows.engine.errors import StepFailure
from workflows.engine.runner import may_be_pickled
from workflows.engine.state import RunFold, RunState
from workflows.engine.waits import Wait
from workflows.log import JSON, Draft, LogError, Notification, Severity

MAX_QUOTED = 20
"""Results that one text quotes: the last ones."""

MAX_RESULT_BYTES = 2**20
"""Results that are larger are data, not findings; they are not read to be quoted."""

_logger = logging.getLogger(__name__)


class RunTeller:
    """Says what a record of one run means to people; `Log` asks it before each append.

    Args:
        run_id: The run.
        fold: Reads results.
    """

    def __init__(self, run_id: str, fold: RunFold) -> None:
        self._run_id = run_id
        self._fold = fold
        self._where = f"--storage {shlex.quote(fold.blobs.store.uri)}"
        self._tell: Mapping[str, Callable[[RunState, Mapping[str, Any]], Sequence[Notification]]] = {
            "claimed": self._claimed,
            "advanced": self._advanced,
            "decided": self._decided,
            "succeeded": self._succeeded,
            "failed": self._failed,
            "dead": self._dead,
            "cancelled": self._cancelled,
        }

    def __call__(self, state: RunState, draft: Draft) -> Sequence[Notification]:
        tell = self._tell.get(draft.kind)
        return () if tell is None else tell(state, draft.data)

    def _claimed(self, state: RunState, _: Mapping[str, Any]) -> Sequence[Notification]:
        if state.claim is not None:
            return ()
        cause = _cause(state)
        parent = (state.created.get("parent") or {}).get("run", "")
        origin = f" It shares what run {parent} had finished." if parent else ""
        text = f"{len(state.steps)} steps.{' Cause: ' + cause + '.' if cause else ''}{origin}"
        note = self._note("run.started", "info", f"Run {self._run_id} started", text, state, cause=cause, parent=parent)
        return (note,)

    def _advanced(self, state: RunState, data: Mapping[str, Any]) -> Sequence[Notification]:
        # Passed for every record of a run: two look-ups where there is nothing to tell.
        asked, ended = data.get("asked"), data.get("ended_waits")
        if not asked and not ended:
            return ()
        told = [self._requested(state, state.steps[step].wait) for step in asked or ()]
        told += [self._expired(state, state.steps[step].wait, data["at"]) for step, _ in ended or ()]
        return tuple(note for note in told if note is not None)

    def _requested(self, state: RunState, wait: Wait | None) -> Notification | None:
        if wait is None:
            return None
        found = list(self._findings(state))
        until = "" if wait.due_at is None else f" Without an answer by {_moment(wait.due_at)} it is a no."
        text = (
            f"The run waits for a person to decide {wait.name!r}.{until}{_quoted(found)} "
            f"By command: python -m workflows.runs approve {self._run_id} {wait.name} --by WHO [--reject] {self._where}"
        )
        return self._note(
            "approval.requested",
            "warning",
            f"Run {self._run_id} asks for approval {wait.name!r}",
            text,
            state,
            gate=wait.name,
            step=wait.step,
            digest=wait.subject,
            expires_at=wait.due_at,
            findings=dict(found),
        )

    def _expired(self, state: RunState, wait: Wait | None, at: float) -> Notification | None:
        if wait is None or wait.kind != "approval" or wait.step in state.decisions:
            return None
        return self._note(
            "approval.decided",
            "warning",
            f"Approval {wait.name!r} of run {self._run_id} has expired",
            f"Nobody decided by {_moment(wait.due_at or at)}, which counts as a no.",
            state,
            gate=wait.name,
            step=wait.step,
            outcome="expired",
        )

    def _decided(self, state: RunState, data: Mapping[str, Any]) -> Sequence[Notification]:
        wait = state.steps[data["step"]].wait
        name = wait.name if wait else data["step"]
        outcome = "approved" if data["approved"] else "rejected"
        why = f" Reason: {data['reason']}" if data["reason"] else ""
        return (
            self._note(
                "approval.decided",
                "info",
                f"{data['by']} {outcome} {name!r} of run {self._run_id}",
                f"The run goes on with that.{why}",
                state,
                gate=name,
                step=data["step"],
                outcome=outcome,
                by=data["by"],
                reason=data["reason"],
            ),
        )

    def _succeeded(self, state: RunState, data: Mapping[str, Any]) -> Sequence[Notification]:
        found = list(self._findings(state))
        text = f"Done {_length(data['at'] - state.created_at)} after it was asked for.{_quoted(found)}"
        title = f"Run {self._run_id} succeeded"
        return (self._note("run.succeeded", "info", title, text, state, findings=dict(found)),)

    def _failed(self, state: RunState, data: Mapping[str, Any]) -> Sequence[Notification]:
        step = state.steps[data["step"]]
        error = StepFailure(**step.error) if step.error else None
        first_line = (str(error).splitlines() or [""])[0][:300] if error else ""
        text = (
            f"Step {data['step']} failed at attempt {step.attempts}: {(first_line or data['reason']).rstrip('.')}. "
            f"{_finished(state)} Go on with it, nothing finished is repeated: {self._resume()}"
        )
        title = f"Run {self._run_id} failed at step {data['step']}"
        kind = error.kind if error else ""
        return (self._note("run.failed", "critical", title, text, state, step=data["step"], kind=kind),)

    def _dead(self, state: RunState, data: Mapping[str, Any]) -> Sequence[Notification]:
        stuck = ", ".join([*state.running, *state.ready][:5])
        text = (
            f"It was {data['reason']}{f' (at {stuck})' if stuck else ''}, so nobody resumes it by itself any more. "
            f"{_finished(state)} Look at the last lines of its log, then: {self._resume()}"
        )
        title = f"Run {self._run_id} was given up"
        return (self._note("run.dead", "critical", title, text, state, reason=data["reason"]),)

    def _cancelled(self, state: RunState, data: Mapping[str, Any]) -> Sequence[Notification]:
        who = f" by {data['by']}" if data["by"] else ""
        why = f" Reason: {data['reason']}." if data["reason"] else ""
        left = f" These steps would not end: {', '.join(data['not_ended'])}." if data["not_ended"] else ""
        text = f"{_finished(state)}{why}{left}"
        title = f"Run {self._run_id} was cancelled{who}"
        severity: Severity = "warning" if left else "info"
        return (self._note("run.cancelled", severity, title, text, state, by=data["by"], reason=data["reason"]),)

    def _note(
        self, event: str, severity: Severity, title: str, text: str, state: RunState, **facts: Any
    ) -> Notification:
        labels = dict(state.created.get("labels") or {})
        return Notification(
            event=event,
            severity=severity,
            title=title,
            text=text,
            run_id=self._run_id,
            alias=str(labels.pop("alias", "")),
            facts={**labels, **facts},
        )

    def _resume(self) -> str:
        return f"python -m workflows.run --resume {self._run_id} {self._where}"

    def _findings(self, state: RunState) -> Iterator[tuple[str, str]]:
        """What the results of the steps say of themselves, by step. Never fails: the record matters more."""
        named = [name for name, found in state.steps.items() if found.status == "succeeded" and not found.owner]
        for name in named[-MAX_QUOTED:]:
            result = state.steps[name].result
            if not _may_speak(result) or may_be_pickled(state, name):
                continue
            try:
                headline = getattr(self._fold.decoded(result), "headline", None)
                if callable(headline):
                    yield name, str(headline())[:500]
            except (LogError, ValueError, TypeError, AttributeError) as error:
                _logger.warning("run %s: the result of %s says nothing: %s", self._run_id, name, error)


def _may_speak(result: JSON) -> bool:
    """Whether an encoded result may be an object with a headline, found without reading it."""
    if not isinstance(result, Mapping):
        return False
    if "$json" in result:
        return bool(result["$json"]["size"] <= MAX_RESULT_BYTES)
    module, _, name = str(result.get("$type", "")).partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return hasattr(found, "headline")


def _cause(state: RunState) -> str:
    """Why the run was started, in a few words: a text, or what stands under `source` and `reason`."""
    cause = state.created.get("cause")
    if isinstance(cause, str):
        return cause[:200]
    if not isinstance(cause, Mapping):
        return ""
    words = dict.fromkeys(str(cause[key]) for key in ("source", "reason") if cause.get(key))
    return ", ".join(words)[:200]


def _finished(state: RunState) -> str:
    done = sum(found.status == "succeeded" for found in state.steps.values())
    return f"{done} of {len(state.steps)} steps are finished."


def _quoted(findings: Sequence[tuple[str, str]]) -> str:
    return "".join(f" {name}: {headline.rstrip('.')}." for name, headline in findings)


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
