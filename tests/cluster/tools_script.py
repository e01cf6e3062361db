"""Runs in a pod of the tests, which nothing kills: it stands for the outside world.

`POST /slack` takes messages, `GET /seen` tells them. `POST /load` sends a request to the endpoint every so often until
it is told to stop, `GET /load` tells how each of them went. The standard library is enough.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMEOUT_S = 30.0


class Load:
    """A request every `pause_s`, whether the one before has been answered or not."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def begin(self, url: str, headers: dict[str, str], body: bytes, pause_s: float) -> None:
        threading.Thread(target=self._run, args=(url, headers, body, pause_s), daemon=True).start()

    def end(self) -> None:
        self._stop.set()

    def _run(self, url: str, headers: dict[str, str], body: bytes, pause_s: float) -> None:
        began = time.monotonic()
        number = 0
        while not self._stop.wait(max(0.0, began + number * pause_s - time.monotonic())):
            number += 1
            threading.Thread(target=self._send, args=(url, headers, body), daemon=True).start()

    def _send(self, url: str, headers: dict[str, str], body: bytes) -> None:
        at, began = time.time(), time.monotonic()
        status, text = ask(url, headers, body)
        sent = {"at": at, "status": status, "took_s": time.monotonic() - began}
        with self._lock:
            self.sent.append(sent if status == 200 else sent | {"why": text[:200]})


def ask(url: str, headers: dict[str, str], body: bytes | None) -> tuple[int, Any]:
    """Status and body; status 0 if nobody answered."""
    request = urllib.request.Request(url, body, headers, method="GET" if body is None else "POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
            return answer.status, text
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, ValueError) as error:
        return 0, str(error)


class Handler(BaseHTTPRequestHandler):
    server: World

    def do_GET(self) -> None:
        if self.path == "/seen":
            self._answer(self.server.seen)
        elif self.path == "/load":
            self._answer(self.server.load.sent)
        else:
            self._answer("ok")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/load":
            self.server.load.end()
            self.server.load = Load()
            if body:
                self.server.load.begin(body["url"], body["headers"], json.dumps(body["body"]).encode(), body["pause_s"])
        elif self.path == "/ask":
            content = None if body["body"] is None else json.dumps(body["body"]).encode()
            self._answer(ask(body["url"], body["headers"], content))
            return
        elif self.path == "/slack":
            self.server.seen.append({"at": time.time(), "body": body})
        self._answer("ok")

    def _answer(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


class World(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("", 8080), Handler)
        self.seen: list[dict[str, Any]] = []
        self.load = Load()


if __name__ == "__main__":
    World().serve_forever()
