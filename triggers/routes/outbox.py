"""`/v1/outbox`: what people were told, what waits, what could not be delivered."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request

from triggers.auth import Access, Caller
from triggers.bodies import EventOut, OutboxOut
from triggers.loop_api import LoopApi
from triggers.problems import PROBLEMS
from triggers.routes.runs import resource_of
from workflows.access import Principal, Question, resources
from workflows.engine import InvalidRunId, RunNotFound
from workflows.outbox import Event

router = APIRouter(prefix="/v1/outbox", tags=["outbox"], responses=PROBLEMS)

MAX_DELIVERED = 50


@router.get("")
def show(request: Request, caller: Caller) -> OutboxOut:
    """Pending, dead and lately delivered events about runs and aliases that the caller may see."""
    api: LoopApi = request.app.state.api
    access: Access = request.app.state.access
    state = api.outbox()
    pending, dead, delivered = (
        [EventOut.of(event) for event in visible(api, access, caller, events, of=of)]
        for of, events in (
            ("all pending events", state.pending.values()),
            ("all dead events", state.dead.values()),
            ("delivered events", state.recent[: -MAX_DELIVERED - 1 : -1]),
        )
    )
    return OutboxOut(pending=pending, dead=dead, delivered=delivered)


def visible(api: LoopApi, access: Access, reader: Principal, events: Iterable[Event], *, of: str) -> list[Event]:
    """The events that somebody may see: about a run, who may see the run; about an alias, who may see its release; all
    others, who may see the metrics.
    """
    found = list(events)
    if not found:
        return []
    shown = access.authorizer.select(reader, [_question(api, event) for event in found], of=of)
    return [event for event, is_shown in zip(found, shown, strict=True) if is_shown]


def _question(api: LoopApi, event: Event) -> Question:
    if event.run_id:
        try:
            return Question("read_run", resource_of(event.run_id, api.facts(event.run_id)))
        except (RunNotFound, InvalidRunId):
            pass  # deleted by now, or told from outside: the alias decides
    facts = api.alias_facts(event.alias) if event.alias else None
    if facts is not None:
        release = resources.release(event.alias, team=facts.team, protected=facts.protected)
        return Question("read_release", release)
    return Question("read_metrics", resources.INSTALLATION)
