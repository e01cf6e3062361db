"""Where the attempts of a run fetch the storage credentials of their step, again and again until they end.

The runner holds the broker's keys; an attempt holds a random token and the address of this desk. The desk answers on
loopback, or on one address of the machine where workers are elsewhere, in the form that AWS clients expect from a
container's agent. A token is good for the credentials of one step of one run, while the runner lives.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast

from workflows.access.credentials import StepCredentials
from workflows.access.errors import CredentialError
from workflows.log.served_credentials import ACCESS_KEY, FULL_URI, TICKET, TOKEN, token_of

PATH = "/v1/credentials"
_log = logging.getLogger(__name__)


class CredentialDesk:
    """Serves credentials by token until it is closed. Safe to use from threads.

    Args:
        host: Address to listen on.
        secret: What the processes with credentials know and nobody else: of Ray, which writes down all that it is told
            to give them. Empty: they are given their tokens as they are.
    """

    def __init__(self, host: str = "127.0.0.1", secret: bytes = b"") -> None:
        self._secret = secret
        self._issued: dict[str, StepCredentials] = {}
        self._server = _Server((host, 0), _Handler, self)
        self._thread = threading.Thread(target=self._server.serve_forever, name="credential-desk", daemon=True)
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_port}{PATH}"

    def hand_out(self, credentials: StepCredentials) -> dict[str, str]:
        """The environment of a process that may fetch these credentials; keys that it would inherit are emptied."""
        ticket = secrets.token_urlsafe(32)
        token = token_of(ticket, self._secret) or ticket
        self._issued[_digest(token)] = credentials
        return {
            FULL_URI: self.url,
            **({TOKEN: "", TICKET: ticket} if self._secret else {TOKEN: token}),
            ACCESS_KEY: "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_SESSION_TOKEN": "",
        }

    def find(self, token: str) -> StepCredentials | None:
        """Whose token this is; the look-up is by digest, so its time tells nothing."""
        return self._issued.get(_digest(token))

    def close(self) -> None:
        """Stops answering; no token is good any more."""
        self._issued.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> CredentialDesk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], desk: CredentialDesk) -> None:
        super().__init__(address, handler)
        self.desk = desk


class _Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self) -> None:
        desk = cast(_Server, self.server).desk
        credentials = desk.find(self.headers.get("Authorization", ""))
        if self.path != PATH or credentials is None:
            self._answer(403, {"Code": "AccessDenied", "Message": "no such token"})
            return
        try:
            current = credentials.current()
        except CredentialError as error:
            _log.warning("%s", error)
            self._answer(503, {"Code": "Unavailable", "Message": "the storage gives no credentials now"})
            return
        if current is None:
            self._answer(403, {"Code": "AccessDenied", "Message": "a folder knows no credentials"})
            return
        expires_at = datetime.fromtimestamp(current.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._answer(
            200,
            {
                "AccessKeyId": current.access_key,
                "SecretAccessKey": current.secret_key,
                "Token": current.session_token,
                "Expiration": expires_at,
            },
        )

    def _answer(self, status: int, document: dict[str, str]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the parent's name
        _log.debug(format, *arguments)
