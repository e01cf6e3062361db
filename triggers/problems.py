"""Errors as RFC 9457 problem documents (`application/problem+json`). No stack, no secret, no text of a foreign
library."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from triggers.loop_api import InvalidRequest, NotStarted
from workflows.access import (
    ApprovalVoid,
    AuditUnavailable,
    Denied,
    TokenExpired,
    TokenSpent,
    UnknownToken,
    WebhookRefused,
)
from workflows.engine import EngineError, InvalidRunId, RunNotFound, StepNotFound
from workflows.log import InvalidKey, LogError, Refused
from workflows.outbox import InvalidNotice

_log = logging.getLogger(__name__)


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(description="Names the kind of problem.", examples=["/problems/denied"])
    title: str = Field(description="The same for every problem of this kind.", examples=["Forbidden"])
    status: int = Field(description="HTTP status.", examples=[403])
    detail: str = Field(description="What went wrong this time.", examples=["Person::ann may not start_run Run::new"])
    errors: list[dict[str, Any]] = Field(
        default_factory=list, description="Which parts of the request break which rule."
    )


class Unauthenticated(Exception):
    """Who asks could not be told. The reason is for the audit log; the answer says nothing about it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadForm(Exception):
    """A form of the page that was not made for this session, or lacks what it needs."""


# The first class that fits decides, so the special stand before the general.
_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (Unauthenticated, 401, "unauthenticated"),
    (WebhookRefused, 401, "unauthenticated"),
    (BadForm, 403, "bad-form"),
    (Denied, 403, "denied"),
    (UnknownToken, 404, "unknown-token"),
    (TokenExpired, 410, "token-expired"),
    (TokenSpent, 409, "token-spent"),
    (ApprovalVoid, 409, "approval-void"),
    (NotStarted, 409, "not-started"),
    (RunNotFound, 404, "run-not-found"),
    (StepNotFound, 404, "step-not-found"),
    (InvalidRunId, 404, "run-not-found"),
    (InvalidKey, 404, "run-not-found"),
    (InvalidRequest, 422, "invalid-request"),
    (InvalidNotice, 422, "invalid-request"),
    (AuditUnavailable, 503, "audit-unavailable"),
    (Refused, 409, "refused"),
    (LogError, 503, "storage-unavailable"),
    (EngineError, 409, "refused"),
)
# These answers tell a stranger, or anybody, nothing about the inside.
_SILENT = {
    "unauthenticated": "a valid key or signature is needed",
    "storage-unavailable": "the storage does not answer; try again",
}


def problem(status: int, kind: str, detail: str, **extra: Any) -> JSONResponse:
    """A problem document as a response."""
    body = {
        "type": f"/problems/{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **extra,
    }
    headers = {"www-authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def told(error: Exception) -> tuple[int, str] | None:
    """Status and sentence of an error that the door knows; None for any other."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        return 422, "the request breaks a rule"
    for known, status, kind in _STATUS:
        if isinstance(error, known):
            return status, _SILENT.get(kind) or str(error)
    return None


def install(app: FastAPI) -> None:
    """Has the app answer every error with a problem document."""
    for error_type, status, kind in _STATUS:
        app.add_exception_handler(error_type, _handler(status, kind))
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def _handler(status: int, kind: str) -> Any:
    def handle(request: Request, error: Exception) -> JSONResponse:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("%s %s: %s", request.method, request.url.path, error)
        return problem(status, kind, _SILENT.get(kind) or str(error))

    return handle


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the log has it whole, a caller is told nothing about the inside."""
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return problem(500, "internal", "an unexpected error; it is in the log of the door")


def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException), "registered for it alone"
    return problem(error.status_code, "http", str(error.detail))


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), "registered for it alone"
    # Without the inputs: they may hold what nobody should see again.
    errors = [{"at": [str(part) for part in item["loc"]], "rule": item["msg"]} for item in error.errors()]
    return problem(422, "invalid-request", "the request breaks a rule", errors=errors)


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 409, 413, 422, 503)
}
