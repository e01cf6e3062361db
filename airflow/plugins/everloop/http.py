"""Requests to a neighbour, with its answers sorted into usable, not now and never."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from everloop.endpoint import Endpoint
from everloop.errors import BadRequest, Unauthorized, Unreachable

TIMEOUT_S = 20.0


def _trust(endpoint: Endpoint) -> bool | ssl.SSLContext:
    if endpoint.url.startswith("http://"):
        # httpx would read all CA certificates of the machine, which blocks the triggerer's loop for 0.2 s, for nothing.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context(cafile=endpoint.verify) if isinstance(endpoint.verify, str) else endpoint.verify


class Http:
    """A neighbour's HTTP interface.

    Args:
        what: Its name in messages.
        endpoint: Where it is.
        timeout_s: Of connecting and of each read.

    Proxies of the environment are passed over: a token goes to its neighbour alone. Redirects are not followed.
    """

    def __init__(self, what: str, endpoint: Endpoint, *, timeout_s: float = TIMEOUT_S) -> None:
        self.what, self._endpoint = what, endpoint
        self._client = httpx.AsyncClient(
            base_url=endpoint.url,
            headers=endpoint.headers,
            verify=_trust(endpoint),
            timeout=timeout_s,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Gives status and JSON of an answer; the text of an answer that is no success.

        Raises:
            Unauthorized: 401 or 403.
            Unreachable: No connection, no complete JSON, a redirect or 429, 502, 503, 504.
        """
        try:
            answer = await self._client.request(method, path, json=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(self.what, type(error).__name__) from error
        status = answer.status_code
        if status in (401, 403):
            raise Unauthorized(self.what, status, self._endpoint.connection)
        if 300 <= status < 400 or status in (408, 425, 429, 502, 503, 504):
            raise Unreachable(self.what, f"HTTP {status}")
        if status >= 400:
            return status, answer.text
        try:
            return status, answer.json()
        except ValueError as error:
            raise Unreachable(self.what, "no complete JSON") from error

    def unusable(self, status: int, text: str) -> Exception:
        """The error of an answer that is no success: 5xx may pass, the rest does not."""
        told = text.strip().splitlines()[-1][:300] if text.strip() else ""
        if status >= 500:
            return Unreachable(self.what, f"HTTP {status} {told}")
        return BadRequest(self.what, status, told)
