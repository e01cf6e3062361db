"""Who asks: an API key (`Authorization: Bearer`), or a Standard Webhooks signature over the body.

A request that is neither is refused with 401 and stands in the audit log. A key stands for its principal; what the
principal may do, the authorizer says.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from triggers.problems import Unauthenticated, problem
from workflows.access import (
    Approvals,
    AuditLog,
    Authorizer,
    Directory,
    Principal,
    Principals,
    SeenIds,
    WebhookRefused,
    WebhookSecret,
    WebhookVerifier,
    key_digest,
    local_person,
    new_api_key,
)

MIN_SECRET_CHARS = 32
"""A file that a crash or a full disk has left shorter is no secret."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the door needs of access control."""

    directory: Principals
    authorizer: Authorizer
    audit: AuditLog
    approvals: Approvals
    verifiers: Mapping[str, WebhookVerifier]


def webhook_verifiers(shared: Mapping[str, tuple[str, ...]], seen: SeenIds) -> dict[str, WebhookVerifier]:
    """A verifier for each sender, by subject."""
    return {
        sender: WebhookVerifier([WebhookSecret.parse(text) for text in texts], seen) for sender, texts in shared.items()
    }


def local_directory(storage: str, key_path: Path) -> Directory:
    """The directory of one machine: the user of this process, with an API key in a file that only they may read.

    Without the key a web page in a browser on this machine, or another user, could use the door as well.
    """
    person = local_person(storage)
    return Directory({person.subject: person}, {key_digest(private_secret(key_path)): person.subject})


def private_secret(path: Path) -> str:
    """A secret in a file that nobody else may read; a new one if there is none yet.

    Raises:
        PermissionError: Others may read it, or it is so short that anybody might guess it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(path, new_api_key())
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise PermissionError(f"{path} can be read by others; make it 0600, or remove it for a new key")
    secret = path.read_text().strip()
    if len(secret) < MIN_SECRET_CHARS:
        raise PermissionError(f"{path} holds {len(secret)} characters, less than {MIN_SECRET_CHARS}; remove it")
    return secret


def _write_new(path: Path, text: str) -> None:
    """Writes a file whole, or not at all: an empty one would be a key that everybody has. The first of several wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()


async def authenticate(request: Request) -> Principal:
    """The principal of a request.

    Raises:
        Unauthenticated: There is none; it is in the audit log by then.
        AuditUnavailable: The refusal could not be written.
    """
    access: Access = request.app.state.access
    try:
        return await run_in_threadpool(_by_key, access, request) or await _by_signature(access, request)
    except (Unauthenticated, WebhookRefused) as refusal:
        await run_in_threadpool(
            access.audit.event,
            "unauthenticated",
            method=request.method,
            path=route_path(request),
            client=request.client.host if request.client else "",
            reason=refusal.reason,
        )
        raise


def _by_key(access: Access, request: Request) -> Principal | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, key = header.partition(" ")
    principal = access.directory.by_api_key(key.strip()) if scheme.lower() == "bearer" else None
    if principal is None:
        raise Unauthenticated("unknown key")
    return principal


async def _by_signature(access: Access, request: Request) -> Principal:
    if "webhook-signature" not in request.headers:
        raise Unauthenticated("neither a key nor a signature")
    body = await request.body()
    refusal = Unauthenticated("no sender is configured")
    for subject, verifier in access.verifiers.items():
        try:
            await run_in_threadpool(verifier.verify, request.headers, body)
        except WebhookRefused as refused:
            refusal = Unauthenticated(refused.reason)
            continue
        principal = access.directory.by_subject(subject)
        if principal is None:
            raise Unauthenticated(f"{subject} signs, but is no principal")
        return principal
    raise refusal


def route_path(request: Request) -> str:
    """The path as declared, not as sent: an approval token must not reach a log."""
    route = request.scope.get("route")
    return str(getattr(route, "path", "?"))


async def authenticate_unless_reading(request: Request) -> Principal | None:
    """The principal of a request; None for a browser that follows a link, which has neither key nor signature.

    Raises:
        Unauthenticated, AuditUnavailable: As `authenticate`.
    """
    is_browser = "text/html" in request.headers.get("accept", "")
    if is_browser and not {"authorization", "webhook-signature"} & set(request.headers.keys()):
        return None
    return await authenticate(request)


Caller = Annotated[Principal, Depends(authenticate)]
CallerOrReader = Annotated[Principal | None, Depends(authenticate_unless_reading)]


class LimitBody:
    """Refuses bodies over a size with 413: by their declared length, and while they come in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads a body that is small enough, then passes the request on. The app below never sees half of one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body = b"" if declared.isdigit() and int(declared[:20]) <= self._max_bytes else None
        more = body is not None
        while more and body is not None:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_bytes:
                body = None
        if body is None:
            answer = problem(413, "too-large", f"a request has at most {self._max_bytes} bytes")
            await answer(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)
