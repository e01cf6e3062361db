"""Two doors, both with real policies, audit log and approvals over a folder: `door` with a loop of ten lines a method
behind it, and `durable` with the real loop and engine. Only Ray is not there: `Durable.walk` writes journals as a
runner would write them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from steps.common.results import Evaluation
from steps.common.signals import SignalState, open_signal_log
from triggers.app import create_app
from triggers.auth import Access, webhook_verifiers
from triggers.loop import DurableLoop
from triggers.loop_api import AliasView, InvalidRequest, LoopApi, NotStarted, RunFacts, SignalOutcome, Started
from triggers.settings import AliasSettings, Settings
from workflows.access import (
    AliasRule,
    ApprovalDecision,
    Approvals,
    AuditLog,
    Authorizer,
    Directory,
    Principal,
    Principals,
    StoredSeenIds,
    key_digest,
    signing_key,
)
from workflows.access.audit import AuditFold
from workflows.api import Loop
from workflows.engine import Engine, Project, RunNotFound, RunOver, RunSummary, RunView, Wait
from workflows.engine.claims import identity
from workflows.engine.state import RunFold
from workflows.log import BlobRef, Draft, Log, Store, encode, open_store
from workflows.outbox import OutboxState

DIGEST = "d" * 64
WEBHOOK_SECRET = "whsec_" + "bjg0" * 8


class FakeLoop:
    """Runs that end when they are told to."""

    def __init__(self) -> None:
        known = RunFacts(recipe="nano", alias="tiny", team="search", protected=True, authors=("Person::olga",))
        self.gated = {"r1": (known, view("r1"))}
        self.runs: dict[str, tuple[RunFacts, RunView]] = {}
        self.keys: dict[str, str] = {}
        self.calls: list[tuple[str, ...]] = []
        self.decisions: list[ApprovalDecision] = []
        self.signals: dict[tuple[str, str, str], SignalOutcome] = {}
        self.evidence: list[Mapping[str, Any]] = []
        self.digest = DIGEST
        self.trouble: Exception | None = None
        self.holds_alias = False
        self.notices: dict[str, Mapping[str, Any]] = {}
        self.box = OutboxState()

    def check(self) -> None:
        if self.trouble:
            raise self.trouble

    def describe(self, recipe: str, overrides: Mapping[str, Any]) -> RunFacts:
        self.check()
        if recipe not in ("nano", "other-team") or any("." not in name for name in overrides):
            raise InvalidRequest(f"recipe {recipe!r} or an override is unknown")
        team = "ads" if recipe == "other-team" else "search"
        return RunFacts(recipe=recipe, alias="tiny", team=team, protected=True, authors=())

    def facts(self, run_id: str) -> RunFacts:
        return self._found(run_id)[0]

    def start(self, recipe: str, overrides: Mapping[str, Any], *, by: str, reason: str, key: str) -> Started:
        facts = replace(self.describe(recipe, overrides), authors=(by,))
        if key in self.keys:
            return Started(self.keys[key], "merged")
        if self.holds_alias:
            raise NotStarted("run r0 holds the alias")
        run_id = f"run-{secrets.token_hex(4)}"
        self.keys[key] = run_id
        self.runs[run_id] = (facts, view(run_id))
        self.calls.append(("start", recipe, by, reason))
        return Started(run_id, "started")

    def list_runs(self) -> Sequence[RunSummary]:
        self.check()
        return [
            RunSummary(run_id, found.status, 1.0, 2.0, None, False, 0, "", None)
            for run_id, (_, found) in self.runs.items()
        ]

    def view(self, run_id: str) -> RunView:
        return self._found(run_id)[1]

    def resume(self, run_id: str, *, by: str) -> RunView:
        return self._change(run_id, "running", "resume", by)

    def cancel(self, run_id: str, *, by: str, reason: str) -> RunView:
        if self.view(run_id).status == "succeeded":
            raise RunOver(run_id, "succeeded")
        return self._change(run_id, "cancelled", "cancel", by, reason)

    def fork(self, run_id: str, from_step: str, overrides: Mapping[str, Any], *, by: str, key: str) -> Started:
        if from_step != "train":
            raise InvalidRequest(f"run {run_id!r} has no step {from_step!r}")
        return self.start(self.facts(run_id).recipe, overrides, by=by, reason="fork", key=key)

    def waiting_digest(self, run_id: str, gate: str) -> str:
        return self.digest

    def evidence(self, run_id: str) -> tuple[str, ...]:
        return (f"what {run_id} found",)

    def list_aliases(self) -> Sequence[AliasView]:
        return []

    def notify(self, body: Mapping[str, Any], *, key: str) -> bool:
        known = key in self.notices
        self.notices.setdefault(key, body)
        return not known

    def outbox(self) -> OutboxState:
        return self.box

    def decide(self, decision: ApprovalDecision) -> None:
        self.decisions.append(decision)

    def signal(
        self, alias: str, source: str, *, window: str, reason: str, evidence: Mapping[str, Any]
    ) -> SignalOutcome:
        self.evidence.append(evidence)
        found = self.signals.get((alias, source, window))
        if found is not None:
            return replace(found, outcome="merged")
        return self.signals.setdefault((alias, source, window), SignalOutcome("started", f"run-{len(self.signals)}"))

    def alias_facts(self, alias: str) -> RunFacts | None:
        return RunFacts(recipe="", alias=alias, team="search", protected=True, authors=()) if alias == "tiny" else None

    def _found(self, run_id: str) -> tuple[RunFacts, RunView]:
        self.check()
        found = self.runs.get(run_id) or self.gated.get(run_id)
        if found is None:
            raise RunNotFound(run_id, "file:///storage")
        return found

    def _change(self, run_id: str, status: Any, *call: str) -> RunView:
        facts, found = self._found(run_id)
        self.calls.append((*call, run_id))
        self.runs[run_id] = (facts, replace(found, status=status))
        return self.runs[run_id][1]


def view(run_id: str, status: Any = "running") -> RunView:
    wait = Wait("release", "approval", "release", 1.0, None, DIGEST)
    told = {"run_id": run_id, "status": status, "steps": (), "created_at": 1.0, "updated_at": 2.0, "waits": (wait,)}
    rest = {"wake_at": None, "epoch": 1, "held": True, "not_ended": (), "cause": None}
    return RunView(**{**{field.name: "" for field in fields(RunView)}, **told, **rest})


PRINCIPALS = {
    principal.subject: principal
    for principal in (
        Principal(kind="Person", id="olga", roles=("operator", "approver"), team="search"),
        Principal(kind="Person", id="ann", roles=("approver",), team="search"),
        Principal(kind="Person", id="vic", roles=("viewer",), team="search"),
        Principal(kind="Person", id="adam", roles=("operator",), team="ads"),
        Principal(kind="Service", id="prometheus", roles=("scheduler",), team="search"),
        Principal(kind="Service", id="alertmanager", roles=("signaller",), team="search"),
        Principal(kind="Service", id="n8n", roles=("scheduler", "signaller"), team="search"),
    )
}


@dataclass
class Door:
    """The door, open."""

    client: TestClient
    loop: FakeLoop
    access: Access
    store: Store
    keys: Mapping[str, str]

    def headers(self, subject: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[subject]}"}

    def send(self, subject: str, method: str, path: str, json: Any = None, **headers: str) -> Any:
        return self.client.request(method, path, json=json, headers={**self.headers(subject), **headers})

    def audited(self) -> list[dict[str, Any]]:
        self.access.audit.flush()
        log = Log(self.store, self.access.audit.name, AuditFold())
        return [dict(entry) for record in log.records() for entry in record.data["entries"]]


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    opened: list[tuple[TestClient, AuditLog]] = []

    def open_it(*, followed: Callable[[Directory, AuditLog], Principals] | None = None, **settings: Any) -> Door:
        loop = FakeLoop()
        api: LoopApi = loop
        uri = f"file://{tmp_path}/storage-{len(opened)}"
        store = open_store(uri)
        audit = AuditLog(store, "door", signing_key(tmp_path / "audit.key"))
        authorizer = Authorizer(audit)
        keys = {subject: f"elk_{subject}" + "k" * 30 for subject in PRINCIPALS}
        known = Directory(PRINCIPALS, {key_digest(key): subject for subject, key in keys.items()})
        directory: Principals = followed(known, audit) if followed else known
        verifiers = webhook_verifiers({"Service::n8n": (WEBHOOK_SECRET,)}, StoredSeenIds(store))
        access = Access(directory, authorizer, audit, Approvals(store, authorizer, loop.decide), verifiers)
        app = create_app(Settings(storage=uri, **{"follow_poll_s": 0.01, **settings}), api, access)
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        opened.append((client, audit))
        return Door(client, loop, access, store, keys)

    yield open_it
    for client, audit in opened:
        client.__exit__(None, None, None)
        audit.close()


@pytest.fixture
def door(open_door: Callable[..., Door]) -> Door:
    return open_door()


STEPS = ("scrape", "validate", "version", "tune", "train", "evaluate")
PEOPLE = (
    Principal(kind="Person", id="root", roles=("admin",), team="local"),
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
        answer = self.send(subject, "POST", "/v1/runs", body, **{"idempotency-key": key})
        assert answer.status_code < 300, answer.text
        return str(answer.json()["run_id"])

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


@pytest.fixture(scope="session")
def project() -> Project:
    """The project's code, read once: its digests take most of the time of a start."""
    return Project()


@pytest.fixture
def open_durable(tmp_path: Path, project: Project) -> Iterator[Callable[..., Durable]]:
    opened: list[tuple[TestClient, AuditLog]] = []

    def open_it(
        *, protected: bool = False, storage: str = "", alias: AliasSettings | None = None, **settings: Any
    ) -> Durable:
        uri = storage or f"file://{tmp_path}/storage"
        loop = Loop(uri, engine=Engine(uri, project=project))
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
        aliases = {"nano": alias or AliasSettings(recipe="nano")}
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
