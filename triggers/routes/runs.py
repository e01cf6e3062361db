"""`/v1/runs`: start, list, view, follow, resume, cancel, fork."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from triggers.auth import Access, Caller
from triggers.bodies import ForkBody, ReasonBody, RunDetailOut, RunOut, RunsOut, StartBody, StartedOut
from triggers.loop_api import LoopApi, RunFacts
from triggers.problems import PROBLEMS
from workflows.access import Principal, Question, Resource, resources
from workflows.engine import RunView
from workflows.engine.state import OVER

router = APIRouter(prefix="/v1/runs", tags=["runs"], responses=PROBLEMS)

RunId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$", examples=["20261124-041530-a1b2c3"])]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="idempotency-key",
        pattern=r"^[A-Za-z0-9_.:-]{1,128}$",
        description="The same key, the same run: a repeated request starts nothing new.",
        examples=["form-2026-11-24-1"],
    ),
]
_OVER = OVER | {"failed", "dead"}


@router.post("", status_code=202)
def start(request: Request, caller: Caller, body: StartBody, key: IdempotencyKey = None) -> StartedOut:
    """Starts a run, or merges the request into one that is under way."""
    api, access = _door(request)
    facts = api.describe(body.recipe, body.overrides)
    access.authorizer.check(caller, "start_run", resource_of("new", facts))
    once = _key(request, caller, key)
    started = api.start(body.recipe, body.overrides, by=caller.subject, reason=body.reason, key=once)
    return StartedOut(run_id=started.run_id, outcome=started.outcome)


@router.get("")
def list_runs(request: Request, caller: Caller) -> RunsOut:
    """The runs that the caller may see, the newest first."""
    api, access = _door(request)
    summaries = api.list_runs()
    if not summaries:
        return RunsOut(runs=[])
    questions = [Question("read_run", resource_of(found.run_id, api.facts(found.run_id))) for found in summaries]
    shown = access.authorizer.select(caller, questions, of="runs")
    return RunsOut(runs=[RunOut.of(found) for found, is_shown in zip(summaries, shown, strict=True) if is_shown])


@router.get("/{run_id}")
def view(request: Request, caller: Caller, run_id: RunId) -> RunDetailOut:
    """A run with its steps."""
    api = _allowed(request, caller, "read_run", run_id)
    return RunDetailOut.of_view(api.view(run_id))


@router.get("/{run_id}/events", response_class=StreamingResponse)
async def follow(request: Request, caller: Caller, run_id: RunId) -> StreamingResponse:
    """The run as server-sent events: one `run` event for every change, until it ends."""
    api = await run_in_threadpool(_allowed, request, caller, "read_run", run_id)
    settings = request.app.state.settings
    stream = _events(api, run_id, settings.follow_poll_s, settings.follow_max_s)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})


@router.post("/{run_id}/resume", status_code=202)
def resume(request: Request, caller: Caller, run_id: RunId) -> RunDetailOut:
    """Has a run go on where it stands."""
    api = _allowed(request, caller, "resume_run", run_id)
    return RunDetailOut.of_view(api.resume(run_id, by=caller.subject))


@router.post("/{run_id}/cancel", status_code=202)
def cancel(request: Request, caller: Caller, run_id: RunId, body: ReasonBody) -> RunDetailOut:
    """Cancels a run."""
    api = _allowed(request, caller, "cancel_run", run_id)
    return RunDetailOut.of_view(api.cancel(run_id, by=caller.subject, reason=body.reason))


@router.post("/{run_id}/fork", status_code=202)
def fork(request: Request, caller: Caller, run_id: RunId, body: ForkBody, key: IdempotencyKey = None) -> StartedOut:
    """Starts a run that shares what this one finished before a step."""
    api = _allowed(request, caller, "fork_run", run_id)
    started = api.fork(run_id, body.from_step, body.overrides, by=caller.subject, key=_key(request, caller, key))
    return StartedOut(run_id=started.run_id, outcome=started.outcome)


def _door(request: Request) -> tuple[LoopApi, Access]:
    return request.app.state.api, request.app.state.access


def _allowed(request: Request, caller: Principal, action: str, run_id: str) -> LoopApi:
    api, access = _door(request)
    access.authorizer.check(caller, action, resource_of(run_id, api.facts(run_id)))
    return api


def resource_of(run_id: str, facts: RunFacts) -> Resource:
    """A run as the authorizer takes it."""
    return resources.run(run_id, team=facts.team, authors=facts.authors, recipe=facts.recipe, alias=facts.alias)


def _key(request: Request, caller: Principal, key: str | None) -> str:
    """One caller's key means nothing to another. A signed request that is sent again keeps its id; without one and
    without a key every request is one of its own.
    """
    return f"{caller.subject}:{key or request.headers.get('webhook-id') or secrets.token_hex(16)}"


async def _events(api: LoopApi, run_id: str, poll_s: float, max_s: float) -> AsyncIterator[str]:
    before = ""
    ends_at = time.monotonic() + max_s
    while time.monotonic() < ends_at:
        view: RunView = await run_in_threadpool(api.view, run_id)
        now = json.dumps(RunDetailOut.of_view(view).model_dump(mode="json"))
        # A comment now and then keeps proxies from closing a quiet connection, and finds out that the client is gone.
        yield f"event: run\ndata: {now}\n\n" if now != before else ": quiet\n\n"
        before = now
        if view.status in _OVER:
            return
        await anyio.sleep(poll_s)
