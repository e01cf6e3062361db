"""Templates, and the headers under which a browser shows a page: nothing from elsewhere, no inline script or style."""

from __future__ import annotations

import hashlib
import time
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

HERE = Path(__file__).parent

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def clock_time(at: float | None) -> str:
    """A moment for people, UTC."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) + " UTC"


def machine_time(at: float | None) -> str:
    """A moment for the attribute `datetime`."""
    return "" if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def duration(seconds: float | None) -> str:
    """A length of time for people: two units at most."""
    if seconds is None:
        return ""
    whole = max(round(seconds), 0)
    for unit_s, unit, part_s, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


@cache
def templates() -> jinja2.Environment:
    """The templates; everything that they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"clock_time": clock_time, "machine_time": machine_time, "duration": duration}
    return made


def page(request: Request, name: str, *, status: int = 200, **facts: Any) -> Response:
    """A whole page, or its inner part for the script that keeps it up to date; 304 if that has not changed."""
    is_part = request.headers.get("x-fragment") == "1" and status == 200
    facts = {"signed_in": None, "form_token": "", "refresh_to": "", **facts}
    text = templates().get_template(name).render(layout="part.html.j2" if is_part else "whole.html.j2", **facts)
    if not is_part:
        return HTMLResponse(text, status, HEADERS)
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    headers = {**HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(text, status, headers)
