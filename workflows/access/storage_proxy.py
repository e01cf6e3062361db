"""A proxy before MinIO that refuses what the server itself lets through: `python -m workflows.access.storage_proxy`.

The last free version of MinIO accepts three kinds of requests that it should not (CVE-2026-40344, CVE-2026-41145):
bodies with unsigned trailers, credentials in the query without a signature, and archives that it unpacks while they
are uploaded. The clients of this project send none of them. All else is streamed through, with the `Host` that was
signed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

_log = logging.getLogger(__name__)

CHUNK_BYTES = 2**18
CONNECT_TIMEOUT_S = 10.0
_UNSIGNED_TRAILER = "STREAMING-UNSIGNED"
# Between two machines only (RFC 9110, section 7.6.1); `Expect` is answered here.
_HOP = frozenset(
    {
        "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_SESSION = web.AppKey("session", ClientSession)


def refusal(query: str, headers: CIMultiDictProxy[str]) -> str:
    """Why a request is refused; empty if it is not.

    Args:
        query: As sent, not decoded.
        headers: Of the request.
    """
    for value in headers.getall("x-amz-content-sha256", ()):
        if value.strip().upper().startswith(_UNSIGNED_TRAILER):
            return "a body with an unsigned trailer"
    names = {name.strip().lower() for name, _ in parse_qsl(query, keep_blank_values=True)}
    if "x-amz-credential" in names and "x-amz-signature" not in names:
        return "credentials in the query without a signature"
    if "x-amz-content-sha256" in names and _UNSIGNED_TRAILER in query.upper():
        return "a body with an unsigned trailer"
    if any("snowball" in name.lower() for name in headers) or any("snowball" in name for name in names):
        return "an archive to unpack while it is uploaded"
    return ""


def make_app(upstream: str) -> web.Application:
    """The proxy as an application.

    Args:
        upstream: `http(s)://host:port` of the server behind.

    Raises:
        ValueError: No such address.
    """
    parts = urlsplit(upstream)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"upstream {upstream!r} is no http(s)://host:port")
    origin = upstream.rstrip("/")

    async def sessions(app: web.Application) -> AsyncIterator[None]:
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        connector = TCPConnector(limit=0)
        async with ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as session:
            app[_SESSION] = session
            yield

    async def handle(request: web.Request) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        why = refusal(query, request.headers)
        if why:
            _log.warning("refused %s %s from %s: %s", request.method, path, request.remote, why)
            return _error(403, "AccessDenied", f"the proxy refuses {why}")
        return await _pass_on(request, origin)

    # Bodies are never held here, so there is no limit to them.
    app = web.Application(client_max_size=0, handler_args={"auto_decompress": False})
    app.cleanup_ctx.append(sessions)
    app.router.add_route("*", "/{anything:.*}", handle)
    return app


async def _pass_on(request: web.Request, origin: str) -> web.StreamResponse:
    session = request.app[_SESSION]
    url = URL(f"{origin}{request.raw_path}", encoded=True)
    has_body = request.can_read_body
    try:
        async with session.request(
            request.method,
            url,
            headers=_end_to_end(request.headers),
            data=request.content.iter_chunked(CHUNK_BYTES) if has_body else None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as answer:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers)
            )
            await response.prepare(request)
            if request.method != "HEAD":
                async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                    await response.write(chunk)
            with suppress(ConnectionError):
                await response.write_eof()
            return response
    except (ClientError, TimeoutError) as error:
        _log.warning("no answer from the storage: %s", type(error).__name__)
        return _error(503, "ServiceUnavailable", "the storage does not answer")


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for value in headers.getall("connection", ()) for name in value.split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP | named)


def _error(status: int, code: str, message: str) -> web.Response:
    """As S3 says it, so that clients understand."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    # The body was not read, so the connection cannot be used again.
    return web.Response(status=status, text=text, content_type="application/xml", headers={"Connection": "close"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is stopped. Returns 0, or 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m workflows.access.storage_proxy", description=__doc__)
    parser.add_argument("--upstream", required=True, metavar="URL", help="the storage, as http(s)://host:port")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9100, help="port to listen on (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        app = make_app(options.upstream)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        web.run_app(app, host=options.host, port=options.port, access_log=None, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
