"""A round of a team on MinIO: the door and the reconciler as processes, secrets that are easy to recognise, each step
with storage credentials of its own. It is watched by somebody who has got into every step.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.services.sites import minio_binary
from workflows.access import key_digest
from workflows.engine import head
from workflows.engine.head import BROKER_ACCESS_KEY, BROKER_SECRET_KEY
from workflows.log import Store, StoreError, open_store
from workflows.log.served_credentials import TICKET, ServedCredentials

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "team"
TEAM = {
    "Person::olga": ["operator", "approver"],
    "Person::ann": ["approver"],
    "Service::runner": ["runner"],
}
MARKER = "visible-marker-4711"
DEADLINE_S = 600.0
ALREADY_THERE = "runs/another/steps/train/0001/x"


@dataclass
class Intruder:
    """What the process of a step has, and what that was good for.

    Attributes:
        step: Whose it is, as the signed session policy says.
        environment: Variables of the process.
        desk_token: What opens the desk where it fetches its credentials.
        credentials: What its token was exchanged for.
        answers: HTTP status by request: 200, or why not.
    """

    step: str
    environment: Mapping[str, str]
    desk_token: str
    credentials: tuple[str, str, str]
    answers: dict[str, int] = field(default_factory=dict)


@dataclass
class TeamRound:
    """What is left of the round, its services still up.

    Attributes:
        storage: URI of the storage.
        folder: Holds whatever a process of the round has written to this machine.
        holders: Files that hold secrets on purpose, and that nobody else may read.
        planted: Secrets by what they are.
        intruders: One for each process with credentials of its own.
        run_id: The run.
        tried: Status and body of each request that decided, in order: by the author, by another, once more.
        before_decision: Journal and status of the run between the first and the second.
        told: Bodies that the receiver of notifications got.
        ray_folder: Where the Ray head keeps its logs.
    """

    storage: str
    folder: Path
    door: str
    holders: frozenset[Path]
    planted: dict[str, str]
    keys: Mapping[str, str]
    intruders: list[Intruder] = field(default_factory=list)
    run_id: str = ""
    tried: list[tuple[int, Any]] = field(default_factory=list)
    before_decision: Any = None
    told: list[Any] = field(default_factory=list)
    ray_folder: Path = Path()
    opened: list[Store] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """The storage, as its root sees it."""
        return self.opened[0]

    def ask(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Asks the door; the status and the body."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.keys[who]}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.door}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status), json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """The first truthy answer."""
        deadline, seen = time.monotonic() + DEADLINE_S, None
        while time.monotonic() < deadline:
            try:
                seen = look()
            except (OSError, ValueError, StoreError) as error:
                seen = None
                last: Any = error
            else:
                last = seen
            if seen:
                return seen
            time.sleep(0.1)
        logs = [path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log")]
        drivers = [path.read_text(errors="replace")[-3000:] for path in self.folder.rglob("runs/*.log")]
        return pytest.fail(f"not in {DEADLINE_S:.0f} s: {what}; last seen {last!r}\n" + "\n".join([*logs, *drivers]))


@contextmanager
def team_round(folder: Path) -> Iterator[TeamRound]:
    """Goes round once; everything is still up while the caller looks at it."""
    minio = pytest.importorskip("minio", reason="the extra `minio` is not installed")
    binary = minio_binary(folder)
    planted = {
        "the root password of the storage": f"canary-root-{secrets.token_hex(8)}",
        "the loop's key of the storage": f"canary-loop-{secrets.token_hex(8)}",
        "the broker's key of the storage": f"canary-broker-{secrets.token_hex(8)}",
        "a webhook secret of the door": _webhook_secret("door"),
        "a webhook secret of a receiver": _webhook_secret("sink"),
        "a header of a receiver": f"canary-header-{secrets.token_hex(8)}",
        "the key of the page's sessions": f"canary-session-{secrets.token_hex(16)}",
        "a token in the environment": f"canary-hub-{secrets.token_hex(8)}",
        **{f"the API key of {who}": f"elk_canary-{secrets.token_hex(16)}" for who in TEAM},
    }
    keys = {who: planted[f"the API key of {who}"] for who in TEAM}
    minio_port, door_port, sink_port = (_free_port() for _ in range(3))
    endpoint, door = f"http://127.0.0.1:{minio_port}", f"http://127.0.0.1:{door_port}"
    storage = f"s3://{BUCKET}/loop?endpoint_override={endpoint}"
    made = TeamRound(storage, folder, door, frozenset(), planted, keys)
    principals = _settings(folder, made, door_port, sink_port)
    state = folder / "state"
    made.holders = frozenset({folder / "door.toml", folder / "reconciler.toml", state / "ray-token"})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "EVERLOOP_"))},
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "EVERLOOP_STATE": str(state),
        "EVERLOOP_PRINCIPALS": str(principals),
        "EVERLOOP_API_KEY": keys["Service::runner"],
        "AWS_ACCESS_KEY_ID": "loop",
        "AWS_SECRET_ACCESS_KEY": planted["the loop's key of the storage"],
        BROKER_ACCESS_KEY: "broker",
        BROKER_SECRET_KEY: planted["the broker's key of the storage"],
        "HUB_TOKEN": planted["a token in the environment"],
        "EVERLOOP_LOG": "INFO",
    }
    root = {"MINIO_ROOT_USER": "root", "MINIO_ROOT_PASSWORD": planted["the root password of the storage"]}
    (folder / "objects" / BUCKET).mkdir(parents=True)
    served = [binary, "server", str(folder / "objects"), "--address", f"127.0.0.1:{minio_port}", "--quiet"]
    door_command = [sys.executable, "-m", "triggers", "--settings", str(folder / "door.toml")]
    reconcile = [sys.executable, "-m", "workflows.reconcile", "--storage", storage, "--interval-s", "1"]
    reconcile += ["--settings", str(folder / "reconciler.toml")]
    with _receiver(sink_port, made.told), _process("minio", served, {**environment, **root}, folder):
        made.until("MinIO live", lambda: urllib.request.urlopen(f"{endpoint}/minio/health/live", timeout=5).status)
        _make_users(minio, minio_port, planted)
        made.opened.append(open_store(storage, credentials=_fixed("root", root["MINIO_ROOT_PASSWORD"])))
        made.store.put(ALREADY_THERE, b"of another run")
        with (
            _process("door", door_command, environment, folder),
            _process("reconciler", reconcile, environment, folder),
        ):
            made.until("the door ready", lambda: urllib.request.urlopen(f"{door}/readyz", timeout=5).status)
            try:
                with _watching(made, minio, minio_port, state):
                    _go_round(made)
                found = head.find(state)
                assert found is not None, "the head outlives the run"
                made.ray_folder = Path(found.temp_dir)
                planted["the token of Ray"] = Path(found.token_file).read_text()
                yield made
            finally:
                head.stop(state)


def _go_round(made: TeamRound) -> None:
    asked = {"recipe": "nano", "overrides": {"approval.required": True}, "reason": MARKER}
    status, started = made.ask("Person::olga", "POST", "/v1/runs", asked)
    assert status == 202, started
    made.run_id = started["run_id"]
    link = made.until("a person asked", lambda: _link(made))
    path = link.removeprefix(made.door)
    made.planted["the token of an approval"] = path.rpartition("/")[2]
    made.until("the run waiting", lambda: _view(made)["status"] == "parked")
    assert made.ask("Person::olga", "GET", path)[0] == 200
    decision = {"decision": "approve", "reason": "it is mine"}
    made.tried.append(made.ask("Person::olga", "POST", path, decision))
    made.before_decision = _view(made)
    made.tried.append(made.ask("Person::ann", "POST", path, {"decision": "approve", "reason": "looks well"}))
    made.tried.append(made.ask("Person::ann", "POST", path, {"decision": "approve", "reason": "once more"}))

    def ended() -> bool:
        found = _view(made)
        assert found["status"] not in ("failed", "dead", "cancelled"), found
        return bool(found["status"] == "succeeded")

    made.until("the run over", ended)
    made.until("people told", lambda: any(body["type"] == "run.succeeded" for body in made.told))


def _view(made: TeamRound) -> Any:
    return made.ask("Person::olga", "GET", f"/v1/runs/{made.run_id}")[1]


def _link(made: TeamRound) -> str:
    found = (body["data"]["links"] for body in made.told if body["type"] == "approval.requested")
    return next((str(links["approval"]) for links in found), "")


def _settings(folder: Path, made: TeamRound, door_port: int, sink_port: int) -> Path:
    principals = folder / "principals.toml"
    tables = []
    for who, roles in TEAM.items():
        kind, _, name = who.partition("::")
        tables.append(
            f'[[principal]]\nkind = "{kind}"\nid = "{name}"\nroles = {json.dumps(roles)}\nteam = "search"\n'
            f'api_keys = ["{key_digest(made.keys[who])}"]\n'
        )
    principals.write_text("\n".join(tables) + '\n[alias.nano]\nteam = "search"\nprotected = true\n')
    session_key, secret = made.planted["the key of the page's sessions"], made.planted["a webhook secret of the door"]
    _private(
        folder / "door.toml",
        f'storage = "{made.storage}"\nport = {door_port}\npublic_url = "{made.door}"\nprincipals = "{principals}"\n'
        f'session_key = "{session_key}"\n'
        f'[webhook_secrets]\n"Service::n8n" = ["{secret}"]\n',
    )
    _private(
        folder / "reconciler.toml",
        f'public_url = "{made.door}"\nprincipals = "{principals}"\n[[notify]]\nname = "sink"\n'
        f'url = "http://127.0.0.1:{sink_port}/"\nsecret = "{made.planted["a webhook secret of a receiver"]}"\n'
        f'headers = {{ "x-token" = "{made.planted["a header of a receiver"]}" }}\n',
    )
    return principals


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _make_users(minio: Any, port: int, planted: Mapping[str, str]) -> None:
    """The loop and the broker: each may all in the bucket and nothing beside it."""
    provider = minio.credentials.StaticProvider("root", planted["the root password of the storage"])
    admin = minio.MinioAdmin(endpoint=f"127.0.0.1:{port}", credentials=provider, region="us-east-1", secure=False)
    resources = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": resources}
    admin.policy_add("bucket", policy={"Version": "2012-10-17", "Statement": [statement]})
    for user in ("loop", "broker"):
        admin.user_add(user, planted[f"the {user}'s key of the storage"])
        admin.attach_policy(["bucket"], user=user)


def _fixed(user: str, password: str) -> Callable[[], Any]:
    return lambda: {"access_key_id": user, "secret_access_key": password, "token": None, "expires_at": None}


@contextmanager
def _process(name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=dict(environment), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _receiver(port: int, told: list[Any]) -> Iterator[None]:
    """Somebody who takes every notification."""

    class Take(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Take)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _watching(made: TeamRound, minio: Any, port: int, state: Path) -> Iterator[None]:
    """Gets into every process of the head that has a token, and tries what it is good for, while the round goes."""
    over, trouble = threading.Event(), []

    def watch() -> None:
        known: set[str] = set()
        while not over.wait(0.05):
            for environment in _environments(f"EVERLOOP_STATE={state}"):
                token = environment.get(TICKET, "")
                if not token or token in known or not made.run_id:
                    continue
                known.add(token)
                try:
                    made.intruders.append(_intrude(made.run_id, environment, minio, port))
                except Exception as error:
                    trouble.append(error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not trouble, trouble


def _environments(mark: str) -> Iterator[dict[str, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if mark in words:
                yield dict(word.partition("=")[::2] for word in words if "=" in word)


def _intrude(run_id: str, environment: Mapping[str, str], minio: Any, port: int) -> Intruder:
    served = ServedCredentials.from_environment(environment)
    assert served is not None
    found = served()
    key, secret, token = found["access_key_id"], found["secret_access_key"], found["token"] or ""
    step = _step_of(token, run_id)
    made = Intruder(step, environment, served.token, (key, secret, token))
    client = minio.Minio(
        f"127.0.0.1:{port}",
        access_key=key,
        secret_key=secret,
        session_token=token,
        secure=False,
        region="us-east-1",
    )
    others = ("scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor")
    tries = [("own", f"runs/{run_id}/steps/{step}/9999/x")]
    tries += [("step", f"runs/{run_id}/steps/{other}/9999/x") for other in others if other != step]
    tries += [("journal", f"runs/{run_id}/{0:020}.json"), ("another run", ALREADY_THERE)]
    tries += [("approvals", "approvals/x"), ("audit", "audit/x"), ("release", "releases/nano/x")]

    def status(call: Callable[[], Any]) -> int:
        try:
            call()
        except minio.error.S3Error as error:
            return int(error.response.status)
        return 200

    for name, key_ in tries:
        there = {"bucket_name": BUCKET, "object_name": f"loop/{key_}"}
        put = status(partial(client.put_object, **there, data=io.BytesIO(b"mine"), length=4))
        made.answers[f"put {name}"] = min(put, made.answers.get(f"put {name}", put))
        if name in ("own", "another run", "journal"):
            made.answers[f"get {name}"] = status(partial(client.stat_object, **there))
    return made


def _step_of(session_token: str, run_id: str) -> str:
    """MinIO signs the session policy into the token; what may be written below the run's steps names the step."""
    claims = _unpacked(session_token.split(".")[1])
    policy = _unpacked(claims["sessionPolicy"])
    mark = f"/runs/{run_id}/steps/"
    steps = {
        resource.partition(mark)[2].partition("/")[0]
        for statement in policy["Statement"]
        for resource in statement["Resource"]
        if mark in resource
    }
    (step,) = steps
    return str(step)


def _unpacked(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4)))


def _webhook_secret(name: str) -> str:
    return "whsec_" + base64.b64encode(f"canary-{name}-".encode() + secrets.token_bytes(18)).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
