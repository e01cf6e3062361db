"""The door over the real loop and the real engine, in a folder. Only Ray is not there: journals are written as a runner
would write them, by `walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from steps.common.results import Evaluation
from steps.common.signals import SignalState, open_signal_log
from triggers.app import create_app
from triggers.auth import Access, webhook_verifiers
from triggers.loop import DurableLoop
from triggers.settings import AliasSettings, Settings
from workflows.access import (
    AliasRule,
    Approvals,
    AuditLog,
    Authorizer,
    Directory,
    Principal,
    StoredSeenIds,
    key_digest,
    signing_key,
)
from workflows.access.audit import AuditFold
from workflows.api import Loop
from workflows.engine import Engine
from workflows.engine.claims import identity
from workflows.engine.state import RunFold
from workflows.log import BlobRef, Draft, Log, encode

STEPS = ("scrape", "validate", "version", "tune", "train", "evaluate")
WEBHOOK_SECRET = "whsec_" + "bjg0" * 8

PEOPLE = (
    Principal(kind="Person", id="olga", roles=("operator", "approver"), team="local"),
    Principal(kind="Person", id="ann", roles=("approver", "viewer"), team="local"),
    Principal(kind="Person", id="vic", roles=("viewer",), team="local"),
    Principal(kind="Person", id="adam", roles=("operator",), team="ads"),
    Principal(kind="Service", id="alertmanager", roles=("signaller",), team="local"),
    Principal(kind="Service", id="n8n", roles=("scheduler", "signaller"), team="local"),
    Principal(kind="CI", id="push", roles=("pusher",), team="local"),
)


@dataclass
class Durable:
    """A door over a folder, its loop, and what it launched."""

    client: TestClient
    loop: Loop
    access: Access
    keys: dict[str, str]
    launched: list[str] = field(default_factory=list)

    def send(self, subject: str, method: str, path: str, json: Any = None, **headers: str) -> Any:
        key = {"authorization": f"Bearer {self.keys[subject]}"}
        return self.client.request(method, path, json=json, headers={**key, **headers})

    def start(self, subject: str = "Person::olga", key: str = "k", **overrides: Any) -> str:
        body = {"recipe": "nano", "overrides": overrides}
        return str(self.send(subject, "POST", "/v1/runs", body, **{"idempotency-key": key}).json()["run_id"])

    def signals(self, alias: str = "nano") -> SignalState:
        return open_signal_log(self.loop.engine.store, alias).refresh()

    def records(self, run_id: str, kind: str) -> list[Any]:
        log = Log(self.loop.engine.store, f"runs/{run_id}", RunFold(self.loop.engine.blobs))
        return [record.data for record in log.records() if record.kind == kind]

    def walk(self, run_id: str, *steps: str, then: str = "") -> None:
        """Writes into a run's journal what a runner would, that died after it."""
        engine = self.loop.engine
        log = Log(engine.store, f"runs/{run_id}", RunFold(engine.blobs))
        now = engine.store.now()
        state = log.refresh()
        replaced = state.claim.index if state.claim else None
        dead = {**identity(), "pid": 2**22, "started": 0}
        epoch = state.epoch + 1
        log.append(lambda _: Draft("claimed", {"replaces": replaced, "runner": dead, "at": now}, epoch=epoch))
        for step in steps:
            result = encode(evaluation() if step == "evaluate" else {"of": step}, engine.blobs)
            log.append(lambda _, done=(step, result): Draft("advanced", {"done": [done], "at": now}, epoch=epoch))
        if then == "parked":
            log.append(
                lambda state: Draft("parked", {"wake_at": None, "waits": list(state.waiting), "at": now}, epoch=epoch)
            )
        elif then:
            log.append(lambda _: Draft(then, {"at": now, "reason": "", "step": ""}, epoch=epoch))

    def waiting(self, subject: str = "Person::olga", key: str = "k", **overrides: Any) -> str:
        """A run that waits for its approval."""
        run_id = self.start(subject, key, **{"approval.required": True, **overrides})
        self.walk(run_id, *STEPS, then="parked")
        return run_id

    def audited(self) -> list[dict[str, Any]]:
        self.access.audit.flush()
        log = Log(self.loop.engine.store, self.access.audit.name, AuditFold())
        return [dict(entry) for record in log.records() for entry in record.data["entries"]]


def evaluation() -> Evaluation:
    return Evaluation(
        verdict="promote",
        reasons=("the first model under this alias",),
        challenger="1",
        champion=None,
        perplexity=12.5,
        champion_perplexity=None,
        loss_difference=None,
        num_documents=12,
        scores=BlobRef(sha256="0" * 64, size=1),
        samples=(("a prompt", "an answer"),),
    )


@pytest.fixture
def open_durable(tmp_path: Path) -> Iterator[Callable[..., Durable]]:
    opened: list[tuple[TestClient, AuditLog]] = []

    def open_it(*, protected: bool = False, storage: str = "", **settings: Any) -> Durable:
        uri = storage or f"file://{tmp_path}/storage"
        loop = Loop(uri, engine=Engine(uri))
        store = loop.engine.store
        audit = AuditLog(store, f"door-{len(opened)}", signing_key(tmp_path / "audit.key"))
        authorizer = Authorizer(audit)
        keys = {person.subject: f"elk_{person.subject}" + "k" * 30 for person in PEOPLE}
        directory = Directory(
            {person.subject: person for person in PEOPLE},
            {key_digest(key): subject for subject, key in keys.items()},
            {"nano": AliasRule(protected=protected)},
        )
        launched: list[str] = []
        aliases = {"nano": AliasSettings(recipe="nano")}
        api = DurableLoop(loop, directory, aliases, launched.append)
        verifiers = webhook_verifiers({"CI::push": (WEBHOOK_SECRET,)}, StoredSeenIds(store))
        access = Access(directory, authorizer, audit, Approvals(store, authorizer, api.decide), verifiers)
        app = create_app(Settings(storage=uri, aliases=aliases, **settings), api, access)
        client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
        client.__enter__()
        opened.append((client, audit))
        return Durable(client, loop, access, keys, launched)

    yield open_it
    for client, audit in opened:
        client.__exit__(None, None, None)
        audit.close()


@pytest.fixture
def durable(open_durable: Callable[..., Durable]) -> Durable:
    return open_durable()
