"""The state of a run: the fold over its records.

Records of the log `runs/<id>`, by kind:

| kind | data |
| --- | --- |
| `created` | `builder`, `config`, `graph`, `inputs`, `code`, `bundle`, `cause`, `labels`, `parent`, `reused` |
| `claimed` | `replaces` (index of the claim before, or null), `runner`; with accepted code also `code`, `graph` |
| `advanced` | `done`, `continued`, `failed`, `ended_waits`, `asked`, `started`: all that was ready together |
| `parked` | `wake_at`: only waits are left, the runner has gone |
| `delivered` | `event`, `payload`, `by` |
| `decided` | `step`, `approved`, `by`, `reason` |
| `cancel_asked` | `by`, `reason` |
| `succeeded`, `failed`, `cancelled`, `dead`, `deleted` | how it ended; a `failed` or `dead` run may be claimed again |
| `noted` | anything that changes nothing |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workflows.engine.graph import Graph, Node, decoded_arguments
from workflows.engine.packing import unpack
from workflows.engine.waits import KINDS, Wait, open_wait
from workflows.log import JSON, Blobs, Record, decode, encode

StepStatus = Literal["blocked", "ready", "running", "waiting", "backoff", "continuing", "succeeded", "failed"]
RunStatus = Literal["pending", "running", "parked", "failed", "cancelled", "succeeded", "dead", "deleted"]
OVER: frozenset[str] = frozenset({"succeeded", "cancelled", "deleted"})


@dataclass(slots=True)
class StepState:
    """Where one step stands. Owned by the fold, which changes it in place."""

    node: Node
    missing: int
    status: StepStatus = "blocked"
    attempts: int = 0
    failures: int = 0
    lost: int = 0
    out_of_memory: int = 0
    due_at: float | None = None
    first_started_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    result: JSON = None
    error: JSON = None
    wait: Wait | None = None
    owner: str = ""
    generation: int = 0
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who drives the run: the record's index, its epoch, the runner's identity, when."""

    index: int
    epoch: int
    runner: Mapping[str, Any]
    at: float


@dataclass(slots=True)
class RunState:
    """The run as of a record. Owned by the fold, which changes it in place: copying 100,000 steps for each record
    would be quadratic.
    """

    status: RunStatus = "pending"
    length: int = 0
    created: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0
    code: Mapping[str, Any] = field(default_factory=dict)
    graphs: list[tuple[str, JSON]] = field(default_factory=list)
    functions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: dict[str, StepState] = field(default_factory=dict)
    dependents: dict[str, list[str]] = field(default_factory=dict)
    output: str = ""
    ready: dict[str, None] = field(default_factory=dict)
    running: dict[str, None] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    backoff: dict[str, None] = field(default_factory=dict)
    failed: dict[str, None] = field(default_factory=dict)
    epoch: int = 0
    claim: Claim | None = None
    claims_without_progress: int = 0
    events: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    decisions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cancel: Mapping[str, Any] | None = None
    wake_at: float | None = None
    reason: str = ""
    not_ended: list[str] = field(default_factory=list)

    @property
    def exists(self) -> bool:
        return self.length > 0

    @property
    def over(self) -> bool:
        return self.status in OVER


class RunFold:
    """Folds a run's records. Reads blobs (a large graph is one), whose content their name fixes: so it is still
    pure.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def initial(self) -> RunState:
        return RunState()

    def apply(self, state: RunState, record: Record) -> RunState:
        state.length = record.index + 1
        state.updated_at = time_of(record)
        apply = _APPLY.get(record.kind)
        if apply is not None:
            apply(self, state, record)
        return state

    def dump(self, state: RunState) -> JSON:
        from workflows.engine.snapshot import dump

        return dump(state)

    def load(self, data: JSON) -> RunState:
        from workflows.engine.snapshot import load

        return load(data, self)

    def graph(self, data: JSON) -> Graph:
        """A graph from a record: inline, or a blob."""
        return Graph.from_json(unpack(data, self.blobs))

    def arguments(self, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Decoded arguments of a node, `Ref` for nodes."""
        args, kwargs = decoded_arguments(node.arguments, self.decoded)
        return tuple(args), kwargs

    def encoded(self, value: Any) -> JSON:
        return encode(value, self.blobs)

    def decoded(self, data: JSON) -> Any:
        return decode(data, self.blobs)


def time_of(record: Record) -> float:
    """Store time of a record, where its writer knew it: the `at` of the record itself is by the writer's clock."""
    return float(record.data.get("at", record.at))


def add_graph(state: RunState, graph: Graph, owner: str) -> list[str]:
    """Adds steps; the one that gives the graph's result belongs to `owner` (a step's continuation, or nobody)."""
    state.functions.update(graph.functions)
    added = []
    for node in graph.nodes:
        missing = 0
        for need in node.needs:
            if state.steps[need].status != "succeeded":
                missing += 1
            state.dependents.setdefault(need, []).append(node.step)
        state.steps[node.step] = StepState(node, missing)
        added.append(node.step)
    if owner:
        state.steps[graph.output].owner = owner
    else:
        state.output = graph.output
    return added


def unblock(fold: RunFold, state: RunState, step: str, at: float) -> None:
    """Makes a step whose needs are all there ready, or opens its wait."""
    found = state.steps[step]
    if found.status != "blocked" or found.missing:
        return
    if found.node.function in KINDS:
        results = {need: state.steps[need].result for need in found.node.needs}
        found.wait = open_wait(step, found.node.function, fold.arguments(found.node), results, at)
        found.status, found.first_started_at, found.started_at = "waiting", at, at
        state.waiting[step] = None
    else:
        found.status = "ready"
        state.ready[step] = None


def finish(fold: RunFold, state: RunState, step: str, result: JSON, at: float) -> None:
    """Records a step's result, and the result of the step whose continuation it ends."""
    for name in (step, state.steps[step].owner):
        if not name:
            continue
        found = state.steps[name]
        leave(state, name)
        found.status, found.result, found.error, found.finished_at = "succeeded", result, None, at
        for dependent in state.dependents.get(name, ()):
            state.steps[dependent].missing -= 1
            unblock(fold, state, dependent, at)


def leave(state: RunState, step: str) -> None:
    """Takes a step out of every index by status."""
    for index in (state.ready, state.running, state.waiting, state.backoff, state.failed):
        index.pop(step, None)


def _created(fold: RunFold, state: RunState, record: Record) -> None:
    if record.index:
        return
    data = record.data
    state.created, state.created_at, state.code = data, time_of(record), data["code"]
    state.graphs = [("", data["graph"])]
    added = add_graph(state, fold.graph(data["graph"]), "")
    for step, reused in (unpack(data["reused"], fold.blobs) if data.get("reused") else {}).items():
        state.steps[step].origin = reused["run"]
        finish(fold, state, step, reused["result"], time_of(record))
    for step in added:
        unblock(fold, state, step, time_of(record))


def _claimed(fold: RunFold, state: RunState, record: Record) -> None:
    data = record.data
    state.claim = Claim(record.index, record.epoch, data["runner"], time_of(record))
    state.epoch, state.status, state.wake_at, state.reason = record.epoch, "running", None, ""
    state.claims_without_progress += 1
    if data.get("code"):
        state.code = data["code"]
    if data.get("graph"):
        replace_graph(fold, state, data["graph"], time_of(record))
    for step in [*state.running, *state.failed]:
        found = state.steps[step]
        if found.status == "failed":
            found.failures = found.lost = found.out_of_memory = 0
            found.first_started_at = None
        found.error = found.error if found.status == "failed" else None
        leave(state, step)
        found.status = "ready"
        state.ready[step] = None


def replace_graph(fold: RunFold, state: RunState, data: JSON, at: float) -> None:
    """Takes over the graph of changed code. Steps known by id keep what they have; so do running continuations."""
    old = state.steps
    inner = [(owner, graph) for owner, graph in state.graphs if owner]
    state.steps, state.dependents, state.graphs = {}, {}, [("", data), *inner]
    for index in (state.ready, state.running, state.waiting, state.backoff, state.failed):
        index.clear()
    for owner, graph in state.graphs:
        if owner and owner not in state.steps:
            continue
        for step in add_graph(state, fold.graph(graph), owner):
            new, known = state.steps[step], old.get(step)
            if known is not None:
                state.steps[step] = StepState(**{**_fields(known), "node": new.node, "missing": 0, "owner": new.owner})
    reindex(fold, state, at)


def _fields(step: StepState) -> dict[str, Any]:
    return {name: getattr(step, name) for name in StepState.__slots__}


def reindex(fold: RunFold, state: RunState, at: float) -> None:
    """Rebuilds what follows from the steps' status."""
    indexes = {
        "ready": state.ready,
        "running": state.running,
        "waiting": state.waiting,
        "backoff": state.backoff,
        "failed": state.failed,
    }
    for name, found in state.steps.items():
        found.missing = sum(state.steps[need].status != "succeeded" for need in found.node.needs)
        if found.status in indexes:
            indexes[found.status][name] = None
        unblock(fold, state, name, at)


def _advanced(fold: RunFold, state: RunState, record: Record) -> None:
    data, at = record.data, time_of(record)
    if any(data.get(key) for key in ("done", "continued", "ended_waits")):
        state.claims_without_progress = 0
    for step, result in (*data.get("done", ()), *data.get("ended_waits", ())):
        finish(fold, state, step, result, at)
    for step, graph in data.get("continued", ()):
        _continue(fold, state, step, graph, at)
    for failure in data.get("failed", ()):
        _fail(state, failure, at)
    state.asked += data.get("asked", ())
    for step, attempt in data.get("started", ()):
        found = state.steps[step]
        leave(state, step)
        found.status, found.attempts, found.due_at, found.started_at = "running", attempt, None, at
        found.first_started_at = found.first_started_at or at
        state.running[step] = None


def _continue(fold: RunFold, state: RunState, step: str, data: JSON, at: float) -> None:
    """A step gave a graph. Its last step stands for it; in a chain of continuations, for the first of them, so that
    neither ids nor look-ups grow with the length of a loop.
    """
    found = state.steps[step]
    leave(state, step)
    owner = found.owner or step
    if found.owner:
        found.status, found.finished_at = "succeeded", at
    else:
        found.status = "continuing"
    state.steps[owner].generation += 1
    state.graphs.append((owner, data))
    for added in add_graph(state, fold.graph(data), owner):
        unblock(fold, state, added, at)


def _fail(state: RunState, failure: Mapping[str, Any], at: float) -> None:
    found = state.steps[failure["step"]]
    leave(state, failure["step"])
    found.error = failure["error"]
    counter = {"lost": "lost", "out_of_memory": "out_of_memory"}.get(failure["error"]["kind"], "failures")
    setattr(found, counter, getattr(found, counter) + 1)
    if failure.get("retry_at") is None:
        found.status, found.finished_at = "failed", at
        state.failed[failure["step"]] = None
    else:
        found.status, found.due_at = "backoff", failure["retry_at"]
        state.backoff[failure["step"]] = None


def _parked(_: RunFold, state: RunState, record: Record) -> None:
    state.status, state.wake_at = "parked", record.data.get("wake_at")


def _delivered(_: RunFold, state: RunState, record: Record) -> None:
    state.events.setdefault(record.data["event"], record.data)


def _decided(_: RunFold, state: RunState, record: Record) -> None:
    state.decisions.setdefault(record.data["step"], record.data)


def _cancel_asked(_: RunFold, state: RunState, record: Record) -> None:
    state.cancel = state.cancel or record.data


def _ended(_: RunFold, state: RunState, record: Record) -> None:
    state.status = record.kind  # type: ignore[assignment]  # only the kinds below come here
    state.reason = record.data.get("reason", "")
    state.not_ended = list(record.data.get("not_ended", ()))


_APPLY: Mapping[str, Callable[[RunFold, RunState, Record], None]] = {
    "created": _created,
    "claimed": _claimed,
    "advanced": _advanced,
    "parked": _parked,
    "delivered": _delivered,
    "decided": _decided,
    "cancel_asked": _cancel_asked,
    "succeeded": _ended,
    "failed": _ended,
    "cancelled": _ended,
    "dead": _ended,
    "deleted": _ended,
}


def downstream(dependents: Mapping[str, Iterable[str]], start: Iterable[str]) -> set[str]:
    """The steps given and all that take their results, directly or not."""
    seen: set[str] = set()
    stack = list(start)
    while stack:
        step = stack.pop()
        if step not in seen:
            seen.add(step)
            stack.extend(dependents.get(step, ()))
    return seen
