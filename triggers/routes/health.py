"""`/healthz` (the process), `/readyz` (storage and policies), `/metrics` (Prometheus, for those who may read
metrics)."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from triggers.auth import Access, Caller
from triggers.problems import PROBLEMS, problem
from workflows.access import resources
from workflows.log import LogError

_log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
def readyz(request: Request) -> Response:
    """The storage answers, and the policies and principals in force are those in the files."""
    access: Access = request.app.state.access
    if access.authorizer.reload_error is not None:
        return problem(503, "not-ready", "the policy files are wrong; the old ones stay in force")
    if access.directory.reload_error is not None:
        return problem(503, "not-ready", "the file of principals is wrong; those before stay in force")
    try:
        request.app.state.api.check()
    except LogError as error:
        _log.warning("not ready: %s", error)
        return problem(503, "not-ready", "the storage does not answer")
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    response_model=None,
    response_class=PlainTextResponse,
    responses={**{status: PROBLEMS[status] for status in (401, 403, 503)}, 200: {"content": {"text/plain": {}}}},
)
def metrics(request: Request, caller: Caller) -> Response:
    """Counters of the door."""
    access: Access = request.app.state.access
    access.authorizer.check(caller, "read_metrics", resources.INSTALLATION)
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
