"""Surroundings of the outbox's tests: a receiver on loopback that does what a test tells it, and a clock to turn."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from workflows.access import WebhookSecret, WebhookVerifier
from workflows.log import Store, open_store
from workflows.outbox import Receiver, post_notice

SECRET = "whsec_" + base64.b64encode(b"loopback-secret-of-32-bytes-long").decode()


class _AnyId:
    def add(self, delivery_id: str, expires_at: float) -> bool:
        return True


@dataclass
class Sink:
    """A real HTTP server. `answers` are taken one by one, then `answer`; an answer is a status, or `hang`."""

    answer: int | str = 204
    answers: list[int | str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    server: ThreadingHTTPServer | None = None
    port: int = 0

    def start(self) -> None:
        """Listens; the second time on the port of the first."""
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sink.take(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def take(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers["content-length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        found = WebhookVerifier([WebhookSecret.parse(SECRET)], _AnyId()).verify(headers, raw)
        answer = self.answers.pop(0) if self.answers else self.answer
        self.seen_headers.append(headers)
        if answer == "hang":
            self.released.wait(60)
            return
        if 200 <= int(answer) < 300:
            self.bodies.append(json.loads(raw))
            self.ids.append(found)
        request.send_response(int(answer))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.send_header("content-length", "0")
        request.end_headers()

    @property
    def events(self) -> Counter[str]:
        """How often each event was taken, by id."""
        return Counter(self.ids)

    def receiver(self, **changes: Any) -> Receiver:
        settings = {"name": "sink", "url": f"http://127.0.0.1:{self.port}/hook", "secret": SECRET, "timeout_s": 10.0}
        return Receiver.model_validate({**settings, **changes})


@dataclass
class Clock:
    """Unix seconds that a test turns on."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def make_sink() -> Iterator[Callable[..., Sink]]:
    made: list[Sink] = []

    def make(**settings: Any) -> Sink:
        made.append(Sink(**settings))
        made[-1].start()
        return made[-1]

    yield make
    for sink in made:
        sink.stop()


@pytest.fixture
def sink(make_sink: Callable[..., Sink]) -> Sink:
    return make_sink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/storage")


def notice(store: Store, key: str, **changes: Any) -> None:
    """Something to be told."""
    body = {"event": "schedule.missed", "severity": "warning", "title": f"title of {key}", "text": "It is late."}
    assert post_notice(store, {**body, **changes}, key)
