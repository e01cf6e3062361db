"""The world outside n8n: a chat, a mail server and the loop's door, on loopback, that write down what they get."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast


@dataclass
class Outside:
    """What arrived, and what is answered.

    Attributes:
        posts: Requests of the chat and the door, as (path, headers, body).
        mails: Messages as they came.
        answers: What the door and the chat answer, by method and path; else 200 and `{}`.
        hold_chat, hold_mail: While set, a message is taken and not answered.
        held: Set once one is.
        released: Lets the held ones go.
    """

    posts: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    hold_chat: threading.Event = field(default_factory=threading.Event)
    hold_mail: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    http_port: int = 0
    smtp_port: int = 0

    def chat(self, mark: str = "") -> list[str]:
        """Chat messages that hold a mark."""
        # Alertmanager's messages have attachments in place of a text.
        texts = [body.get("text", "") for path, _, body in list(self.posts) if path.startswith("/chat")]
        return [text for text in texts if text and mark in text]

    def mail(self, mark: str) -> list[str]:
        """Mails that hold a mark."""
        return [mail for mail in list(self.mails) if mark in mail]

    def door(self, path: str) -> list[tuple[dict[str, str], Any]]:
        """Requests to the door."""
        return [(headers, body) for found, headers, body in list(self.posts) if found == path]

    def wait_while_held(self) -> None:
        """Of a sink that holds: until the test lets it go."""
        self.held.set()
        self.released.wait(60)


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        outside = cast("Outside", self.server.outside)  # type: ignore[attr-defined]
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        outside.posts.append((self.path, headers, json.loads(raw) if raw else None))
        if self.path.startswith("/chat") and outside.hold_chat.is_set():
            outside.wait_while_held()
        status, body = outside.answers.get(f"{self.command} {self.path}", (200, {}))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()


class _Smtp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        outside = cast("Outside", self.server.outside)  # type: ignore[attr-defined]
        self.wfile.write(b"220 outside ESMTP\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines: list[bytes] = []
                while (line := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(line.removeprefix(b"."))
                outside.mails.append(b"".join(lines).decode())
                if outside.hold_mail.is_set():
                    outside.wait_while_held()
            elif word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 fine\r\n")


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


class _SmtpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


@contextmanager
def outside_world() -> Iterator[Outside]:
    """Opens it."""
    outside = Outside()
    http, smtp = _HttpServer(("127.0.0.1", 0), _Http), _SmtpServer(("127.0.0.1", 0), _Smtp)
    for server in (http, smtp):
        server.outside = outside  # type: ignore[union-attr]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    outside.http_port, outside.smtp_port = http.server_port, smtp.server_address[1]
    yield outside
    outside.released.set()
    for server in (http, smtp):
        server.shutdown()
        server.server_close()


def until(what: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    """Waits for something to be so."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found
