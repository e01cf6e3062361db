"""What the page shows, gathered from the loop and cut down to what its reader may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steps.common import signals
from triggers.auth import Access
from triggers.loop_api import AliasView, LoopApi, RunFacts
from triggers.routes.outbox import visible
from workflows.access import Principal, Question, resources
from workflows.engine import RunNotFound, RunSummary, RunView, StepView, Wait
from workflows.engine.state import OVER
from workflows.outbox import Event

MAX_RUNS, MAX_EVENTS = 25, 20
STAGES = ("idle", *signals.STAGES, "cooldown")


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step as a row and as a segment of the run's bar."""

    name: str
    status: str
    seconds: float | None
    share: float | None
    message: str
    attempts: int
    origin: str


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run with its steps."""

    view: RunView
    facts: RunFacts
    steps: tuple[ShownStep, ...]

    @property
    def cause(self) -> str:
        """Why it was started, in a few words."""
        cause = self.view.cause
        if not isinstance(cause, Mapping):
            return ""
        evidence = cause.get("evidence") or {}
        by = f" by {evidence['by']}" if evidence.get("by") else ""
        why = evidence.get("reason") or (cause.get("reason") if cause.get("reason") != cause.get("source") else "")
        return f"{cause.get('source', '')}{by}" + (f": {why}" if why else "")


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A gate that waits for a person."""

    run_id: str
    wait: Wait
    facts: RunFacts
    evidence: tuple[str, ...]
    needs_another: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """The page `/`."""

    runs: tuple[ShownRun, ...]
    pending: tuple[PendingApproval, ...]
    aliases: tuple[AliasView, ...]
    num_hidden: int
    undelivered: tuple[Event, ...]
    dead: tuple[Event, ...]


def overview(api: LoopApi, access: Access, reader: Principal) -> Overview:
    """What that person may see, now."""
    summaries = _visible(api, access, reader, api.list_runs())
    runs = tuple(shown(api, summary.run_id) for summary in summaries[:MAX_RUNS])
    waiting = [found for found in runs if found.view.status not in OVER]
    pending = tuple(gate for found in waiting for gate in pending_at(api, found, reader))
    aliases = list(api.list_aliases())
    questions = [
        Question("read_release", resources.release(view.alias, team=view.facts.team, protected=view.facts.protected))
        for view in aliases
    ]
    shown_aliases = access.authorizer.select(reader, questions, of="aliases")
    allowed = tuple(view for view, is_shown in zip(aliases, shown_aliases, strict=True) if is_shown)
    outbox = api.outbox()
    undelivered, dead = (
        tuple(visible(api, access, reader, list(events.values())[-MAX_EVENTS:], of=of))
        for of, events in (("pending events", outbox.pending), ("dead events", outbox.dead))
    )
    return Overview(runs, pending, allowed, max(len(summaries) - MAX_RUNS, 0), undelivered, dead)


def shown(api: LoopApi, run_id: str) -> ShownRun:
    """One run as the page shows it."""
    view = api.view(run_id)
    return ShownRun(view, api.facts(run_id), tuple(_step(step, view) for step in _told(view.steps)))


def pending_at(api: LoopApi, found: ShownRun, reader: Principal) -> list[PendingApproval]:
    """The gates of a run that wait for a person."""
    facts = found.facts
    needs_another = facts.protected and reader.subject in facts.authors
    return [
        PendingApproval(found.view.run_id, wait, facts, api.evidence(found.view.run_id), needs_another)
        for wait in found.view.waits
        if wait.kind == "approval" and found.view.status not in OVER
    ]


def _visible(api: LoopApi, access: Access, reader: Principal, summaries: Sequence[RunSummary]) -> list[RunSummary]:
    known = []
    for summary in summaries:
        try:
            known.append((summary, api.facts(summary.run_id)))
        except RunNotFound:
            continue
    questions = [
        Question(
            "read_run",
            resources.run(
                summary.run_id, team=facts.team, authors=facts.authors, recipe=facts.recipe, alias=facts.alias
            ),
        )
        for summary, facts in known
    ]
    answers = access.authorizer.select(reader, questions, of="runs")
    return [summary for (summary, _), is_shown in zip(known, answers, strict=True) if is_shown]


def _told(steps: Sequence[StepView]) -> list[StepView]:
    """The steps without the looks of a canary: a look a second would bury the rest. The newest one stays."""
    looks = [step for step in steps if "/" in step.name or "~" in step.name]
    plain = [step for step in steps if step not in looks]
    return [*plain[:-1], *looks[-1:], *plain[-1:]] if looks else plain


def _step(step: StepView, view: RunView) -> ShownStep:
    share = None
    if step.progress is not None and step.progress.total > 0:
        share = min(max(step.progress.done / step.progress.total, 0.0), 1.0)
    seconds = None
    if step.started_at is not None and step.finished_at is not None:
        seconds = max(step.finished_at - step.started_at, 0.0)
    return ShownStep(
        name=step.name.split("/")[-1].split("~")[0],
        status=step.status if view.status != "cancelled" or step.status == "succeeded" else "cancelled",
        seconds=seconds,
        share=share,
        message=_message(step),
        attempts=step.attempts,
        origin=step.origin,
    )


def _message(step: StepView) -> str:
    if step.error is not None:
        return step.error.message.partition("\n")[0][:300] or step.error.type
    if step.progress is None:
        return ""
    numbers: Any = " ".join(f"{name} {value:.4g}" for name, value in step.progress.metrics.items())
    return f"{step.progress.message} {numbers}".strip()
