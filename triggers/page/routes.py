"""The pages and what their buttons do. Buttons ask the same authorizer and call the same loop as the API."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, RedirectResponse, Response

from triggers.auth import Access, route_path
from triggers.loop_api import LoopApi
from triggers.page.overview import STAGES, overview, pending_at, shown
from triggers.page.rendering import HEADERS, HERE, page
from triggers.page.sessions import COOKIE, LIFETIME_S, Sessions
from triggers.problems import BadForm, Unauthenticated, told
from triggers.routes.approvals import open_gate
from triggers.routes.runs import RunId, resource_of
from workflows.access import ApprovalDecision, Principal, resources


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors as pages."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await inner(request)
            except Unauthenticated:
                return _sign_in_page(request)
            except Exception as error:
                if isinstance(error, BadForm):
                    await run_in_threadpool(_audit_refusal, request, str(error))
                known = told(error)
                if known is None:
                    raise
                status, text = known
                return page(request, "error.html.j2", status=status, what=text, **_frame(request))

        return handle


router = APIRouter(route_class=PageRoute, include_in_schema=False)

_MAX_FORM_FIELDS = 20
_ASSETS = {"everloop.css": "text/css", "live.js": "text/javascript", "mark.svg": "image/svg+xml"}


@router.get("/")
def home(request: Request) -> Response:
    """Runs, canaries, aliases, pending approvals."""
    reader, api, access = _signed_in(request), _api(request), _access(request)
    return page(request, "home.html.j2", now=overview(api, access, reader), stages=STAGES, **_frame(request))


@router.get("/runs/{run_id}")
def run(request: Request, run_id: RunId) -> Response:
    """One run."""
    reader, api = _signed_in(request), _api(request)
    _access(request).authorizer.check(reader, "read_run", resource_of(run_id, api.facts(run_id)))
    found = shown(api, run_id)
    return page(request, "run.html.j2", run=found, pending=pending_at(api, found, reader), **_frame(request))


@router.post("/runs/{run_id}/gates/{gate}")
async def decide(request: Request, run_id: RunId, gate: str) -> Response:
    """Decides at a gate; bound to the digest that the page showed."""
    reader, form = await _form(request)
    granted = form.get("decision") == "approve"
    if form.get("decision") not in ("approve", "reject"):
        raise BadForm("a decision is approve or reject")

    def do() -> None:
        api, access = _api(request), _access(request)
        facts, digest = api.facts(run_id), form.get("digest", "")
        asked = resources.approval(
            run_id, gate, digest=digest, team=facts.team, protected=facts.protected, authors=facts.authors
        )
        access.authorizer.check(reader, "approve" if granted else "reject", asked)
        api.decide(
            ApprovalDecision(
                run=run_id,
                gate=gate,
                digest=digest,
                granted=granted,
                by=reader.subject,
                reason=form.get("reason", "")[:1000],
                decided_at=time.time(),
            )
        )

    await run_in_threadpool(do)
    return RedirectResponse(f"/runs/{run_id}", 303, HEADERS)


@router.post("/runs/{run_id}/resume")
async def resume(request: Request, run_id: RunId) -> Response:
    """Has a run go on."""
    reader, _ = await _form(request)

    def do() -> None:
        api = _api(request)
        _access(request).authorizer.check(reader, "resume_run", resource_of(run_id, api.facts(run_id)))
        api.resume(run_id, by=reader.subject)

    await run_in_threadpool(do)
    return RedirectResponse(f"/runs/{run_id}", 303, HEADERS)


@router.post("/runs/{run_id}/cancel")
async def cancel(request: Request, run_id: RunId) -> Response:
    """Cancels a run."""
    reader, form = await _form(request)

    def do() -> None:
        api = _api(request)
        _access(request).authorizer.check(reader, "cancel_run", resource_of(run_id, api.facts(run_id)))
        api.cancel(run_id, by=reader.subject, reason=form.get("reason", "")[:1000])

    await run_in_threadpool(do)
    return RedirectResponse(f"/runs/{run_id}", 303, HEADERS)


@router.get("/approvals/{token}")
def approval(request: Request, token: str) -> Response:
    """What the link of a message is about. Looking decides nothing."""
    reader, access = _signed_in(request), _access(request)
    state = access.approvals.show(token[:200])
    assert state.request is not None, "show raises for a token that was not issued"
    access.authorizer.check(reader, "read_approval", state.request.resource)
    evidence = _api(request).evidence(state.request.run)
    return page(request, "approval.html.j2", state=state, token=token, evidence=evidence, **_frame(request))


@router.post("/approvals/{token}")
async def decide_by_link(request: Request, token: str) -> Response:
    """Decides by the link of a message."""
    reader, form = await _form(request)
    if form.get("decision") not in ("approve", "reject"):
        raise BadForm("a decision is approve or reject")

    def do() -> str:
        api, access = _api(request), _access(request)
        asked = access.approvals.show(token[:200]).request
        assert asked is not None, "show raises for a token that was not issued"
        digest = open_gate(api, access, reader, asked, form["decision"])
        granted, reason = form["decision"] == "approve", form.get("reason", "")[:1000]
        access.approvals.decide(token, reader, granted, digest=digest, reason=reason)
        return asked.run

    run_id = await run_in_threadpool(do)
    return RedirectResponse(f"/runs/{run_id}", 303, HEADERS)


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Opens a session for the person whose API key this is."""
    _same_site(request)
    form = await _fields(request)
    cookie = _sessions(request).open(form.get("key", "").strip())
    if cookie is None:
        await run_in_threadpool(_audit_refusal, request, "unknown key, or one of a program")
        return _sign_in_page(request, to=form.get("to", "/"), refused=True)
    answer = RedirectResponse(_inner(form.get("to", "/")), 303, HEADERS)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=int(LIFETIME_S),
        httponly=True,
        samesite="strict",
        secure=request.app.state.settings.public_url.startswith("https://"),
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Forgets the session in this browser."""
    await _form(request)
    answer = RedirectResponse("/", 303, HEADERS)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/page/{name}")
def asset(request: Request, name: str) -> Response:
    """Style, script and mark of the pages; they tell nothing."""
    if name not in _ASSETS:
        return page(request, "error.html.j2", status=404, what="there is nothing here", **_frame(request))
    headers = {**HEADERS, "cache-control": "public, max-age=300"}
    return FileResponse(HERE / "static" / name, media_type=_ASSETS[name], headers=headers)


def _audit_refusal(request: Request, reason: str) -> None:
    _access(request).audit.event(
        "unauthenticated",
        method=request.method,
        path=route_path(request),
        client=request.client.host if request.client else "",
        reason=reason,
    )


def _sign_in_page(request: Request, *, to: str | None = None, refused: bool = False) -> Response:
    here = request.url.path if request.method == "GET" else "/"
    crossed = request.headers.get("sec-fetch-site") == "cross-site" and "here" not in request.query_params
    # A link in a mail brings no Strict cookie along; a second look from this page does.
    refresh_to = f"{here}?here=1" if crossed and request.method == "GET" else ""
    return page(request, "sign_in.html.j2", status=401, to=to or here, refused=refused, refresh_to=refresh_to)


def _inner(path: str) -> str:
    """A path of this site, whatever was asked for: a sign-in must not lead elsewhere."""
    is_inner = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if is_inner else "/"


def _signed_in(request: Request) -> Principal:
    reader = _sessions(request).principal(request.cookies.get(COOKIE, ""))
    if reader is None:
        raise Unauthenticated("no session")
    return reader


async def _form(request: Request) -> tuple[Principal, dict[str, str]]:
    """Who pressed a button, and the fields of its form.

    Raises:
        Unauthenticated: Nobody who is signed in.
        BadForm: It was not made by a page of this session.
    """
    reader = _signed_in(request)
    _same_site(request)
    fields = await _fields(request)
    if not _sessions(request).is_form_token(request.cookies[COOKIE], fields.get("form_token", "")):
        raise BadForm("the form is not of this session; open the page again")
    return reader, fields


def _same_site(request: Request) -> None:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise BadForm("the form comes from another site")


async def _fields(request: Request) -> dict[str, str]:
    try:
        fields = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS)
    except ValueError as error:
        raise BadForm("the form cannot be read") from error
    return {name: values[-1] for name, values in fields.items()}


def _frame(request: Request) -> dict[str, Any]:
    cookie = request.cookies.get(COOKIE, "")
    reader = _sessions(request).principal(cookie)
    return {"signed_in": reader, "form_token": _sessions(request).form_token(cookie) if reader else ""}


def _api(request: Request) -> LoopApi:
    api: LoopApi = request.app.state.api
    return api


def _access(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


def _sessions(request: Request) -> Sessions:
    sessions: Sessions = request.app.state.sessions
    return sessions
