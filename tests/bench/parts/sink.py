"""Somebody who takes every notification at once: what is measured is the sender."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from workflows.log import Store
from workflows.outbox import Receiver, post_notice


@contextmanager
def accepting() -> Iterator[Receiver]:
    """A receiver on loopback that answers 204 to everything."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Accept)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    yield Receiver.model_validate({"name": "sink", "url": url, "secret": "whsec_" + "QUJD" * 8})
    server.shutdown()
    server.server_close()


def post_notices(store: Store, count: int) -> None:
    """That many notices, all different."""
    for number in range(count):
        post_notice(store, {"event": "a.b", "severity": "info", "title": "t", "text": "x"}, str(number))


class _Accept(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
