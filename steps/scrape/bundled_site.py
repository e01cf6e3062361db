"""Thirty small pages that come with the project, for runs that must be short. Served on loopback with validators.

Their URLs are below `http://bundled.localhost/`, whatever the port is.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steps.scrape.config import ScrapeConfig
from steps.scrape.source import Source, source_name

HOST = "bundled.localhost"

FOLDER = Path(__file__).parent / "site"


@contextmanager
def serve_bundled(config: ScrapeConfig, folder: Path = FOLDER) -> Iterator[Source]:
    """Serves the pages until the block ends."""
    with serve_folder(folder) as port:
        yield Source(
            name=source_name(config),
            seeds=(f"http://{HOST}/",),
            sites=frozenset({f"{HOST}:80"}),
            delay_s=config.delay_s or 0.0,
            routes={HOST: ("127.0.0.1", port)},
        )


@contextmanager
def serve_folder(folder: Path) -> Iterator[int]:
    """Serves the HTML files of a folder on a free loopback port, which it yields."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder.resolve()))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class PageHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answers with a page, with 304 when the reader has it already, or with 404."""
            name = unquote(urlsplit(self.path).path).lstrip("/") or "index.html"
            path = (folder / name).resolve()
            if path.suffix != ".html" or path.parent != folder or not path.is_file():
                self._answer(404, b"not found", "")
                return
            body = path.read_bytes()
            # Of the content, not of the file's date: a fresh checkout holds the same pages.
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == etag:
                self._answer(304, b"", etag)
            else:
                self._answer(200, body, etag)

        def _answer(self, status: int, body: bytes, etag: str) -> None:
            self.send_response(status)
            if etag:
                self.send_header("ETag", etag)
            if status != 304:
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base class
            """Says nothing: the frontier has it all."""

    return PageHandler
