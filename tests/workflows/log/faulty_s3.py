"""A reverse proxy in front of a real S3 that loses answers: what networks and load balancers do, on demand."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Action = Literal["apply-500", "apply-drop", "fail-503", "drop", "hang", "full-507", "lie"]


@dataclass
class Fault:
    """Meets the requests of a method whose path contains a text, `times` of them.

    `apply-*` does what was asked and loses the answer; `fail-503`, `drop` and `full-507` do nothing; `hang` does
    nothing until the client gave up;
    `lie` reports success where the condition was not met.
    """

    method: str
    path: str
    action: Action
    times: int = 1
    hits: int = 0


@dataclass
class FaultyS3:
    """The proxy: `endpoint` to talk to, `faults` to fill, `requests` that were seen."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    endpoint: str = ""
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.method == method and fault.path in path and fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None

    @contextmanager
    def serving(self) -> Iterator[FaultyS3]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                proxy.handle(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - named by http.server

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            server.shutdown()
            server.server_close()
            thread.join()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault_for(request.command, request.path)
        action = fault.action if fault else None
        if action == "hang":
            self.released.wait(60)
        if action in ("drop", "hang"):
            _drop(request)
            return
        if action in ("fail-503", "full-507"):
            code = int(action[-3:])
            name = "XMinioStorageFull" if code == 507 else "ServiceUnavailable"
            _send(request, code, [], f"<Error><Code>{name}</Code></Error>".encode())
            return
        status, headers, answer = self._forward(request, body)
        if action == "lie" and status == 412:
            _send(request, 200, [("ETag", '"lie"')], b"")
        elif action == "apply-drop":
            _drop(request)
        elif action == "apply-500":
            _send(request, 500, [], b"<Error><Code>InternalError</Code></Error>")
        else:
            _send(request, status, headers, answer)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=60)
        # The signature covers the Host header that the client sent, so it goes on as it is.
        connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        return response.status, response.getheaders(), answer


def _send(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    request.send_response_only(status)
    for name, value in headers:
        if name.lower() not in ("transfer-encoding", "connection"):
            request.send_header(name, value)
    if not any(name.lower() == "content-length" for name, _ in headers):
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def _drop(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True
    request.connection.close()
