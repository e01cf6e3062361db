"""One attempt: the body, its signature, the POST, and what the answer means."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import aiohttp

from workflows.access import Redactor, sign_webhook
from workflows.outbox.collecting import Found, told_at
from workflows.outbox.settings import Receiver

MAX_RETRY_AFTER_S = 3600.0
"""Longest pause that a receiver may ask for."""

_GONE = 410
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a POST.

    Attributes:
        outcome: `delivered` (2xx), `gone` (410: not to be tried again), else `failed`.
        status: The HTTP status, or None if there was no answer.
        error: What went wrong, in words without the receiver's address; empty if nothing did.
        retry_after_s: The pause that the receiver asks for; 0 if it does not.
    """

    outcome: Literal["delivered", "failed", "gone"]
    status: int | None = None
    error: str = ""
    retry_after_s: float = 0.0


def body_of(found: Found, links: Mapping[str, str], redactor: Redactor) -> bytes:
    """The bytes of a delivery, without known secrets."""
    note = found.notification
    document = {
        "type": note.event,
        "timestamp": datetime.fromtimestamp(told_at(found.record), UTC).isoformat(timespec="milliseconds"),
        "data": {
            "id": found.id,
            "severity": note.severity,
            "title": redactor.text(note.title),
            "text": redactor.text(note.text),
            "run_id": note.run_id,
            "alias": note.alias,
            "facts": redactor.value(note.facts),
            "links": dict(links),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


async def post(session: aiohttp.ClientSession, receiver: Receiver, event_id: str, body: bytes) -> Answer:
    """Posts once. Whatever goes wrong outside is an answer, not an error."""
    headers = {
        "content-type": "application/json",
        "user-agent": "everloop-outbox/1",
        **{name: content.get_secret_value() for name, content in receiver.headers.items()},
        **sign_webhook(receiver.key, event_id, body),
    }
    timeout = aiohttp.ClientTimeout(total=receiver.timeout_s, connect=min(_CONNECT_S, receiver.timeout_s))
    url = receiver.url.get_secret_value()
    try:
        async with session.post(url, data=body, headers=headers, timeout=timeout, allow_redirects=False) as response:
            return _meaning(response)
    except TimeoutError:
        return Answer("failed", None, f"no answer within {receiver.timeout_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Its text may hold the address, which may hold a secret.
        reason = getattr(error, "strerror", None) or ""
        return Answer("failed", None, f"{type(error).__name__} {reason}".strip()[:200])


def _meaning(response: aiohttp.ClientResponse) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer("delivered", status)
    if status == _GONE:
        return Answer("gone", status, "410: the receiver wants no more of this")
    if 300 <= status < 400:
        return Answer("failed", status, f"{status}: a redirect, which is not followed")
    return Answer("failed", status, f"{status} {response.reason or ''}".strip()[:100], _retry_after_s(response))


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        at = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return min(max(at.timestamp() - time.time(), 0.0), MAX_RETRY_AFTER_S)
