"""What a runner writes next: a pure decision over the state and what its attempts brought."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workflows.engine.claims import guard
from workflows.engine.errors import StepFailure
from workflows.engine.graph import Graph, Ref
from workflows.engine.state import RunFold, RunState, StepState
from workflows.engine.step import Caught, backoff_s
from workflows.engine.waits import KINDS, Approval, Event, Wait
from workflows.log import JSON, Draft

MAX_BATCH_BYTES = 400_000
"""Results that share a record; the log refuses records of a megabyte."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        step: The step.
        attempt: The attempt.
        kind: `done`, `continued`, `failed`, or `stopped` (by a fence or a cancellation: nothing to record).
        value: The encoded result or graph, or the failure as a dict.
        retryable: Whether the step's own policy allows another attempt at this kind of failure.
        num_bytes: Size of `value` as JSON, about.
    """

    step: str
    attempt: int
    kind: str
    value: JSON = None
    retryable: bool = True
    num_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Bounds of a runner.

    Attributes:
        max_running: Attempts handed to Ray at a time.
        max_coordinators: Attempts that hold no CPU, at a time: nothing else would limit them.
        inline_wait_s: A wait that ends by itself within this time is waited for; for a longer one the run is parked.
    """

    max_running: int = 512
    max_coordinators: int = 4
    inline_wait_s: float = 60.0


@dataclass(slots=True)
class _Changes:
    done: list[list[Any]] = field(default_factory=list)
    continued: list[list[Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    ended_waits: list[list[Any]] = field(default_factory=list)
    settled: set[str] = field(default_factory=set)
    newly_ready: list[str] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)


def advance(
    fold: RunFold,
    run_id: str,
    state: RunState,
    epoch: int,
    outcomes: Iterable[Outcome],
    *,
    now: float,
    bounds: Bounds,
    not_ended: Sequence[str] | None = None,
) -> Draft | None:
    """The next record of a run: everything that is known now, and the starts that follow from it. None: nothing to say.

    Args:
        fold: Reads graphs and encodes outcomes of waits.
        run_id: The run.
        state: The run as it is.
        epoch: The runner's claim.
        outcomes: Attempts that ended; those that are no longer awaited are passed over.
        now: Store time.
        bounds: Bounds of the runner.
        not_ended: While cancelling: None as long as attempts are still being stopped, else the steps that would not
        end.

    Raises:
        Fenced: Another runner has claimed the run.
        RunOver: The run has ended.
    """
    guard(run_id, state, epoch)
    changes = _settle(fold, state, outcomes, now)
    _end_waits(fold, state, changes, now)
    stopping = state.cancel is not None or bool(state.failed) or any(f["retry_at"] is None for f in changes.failed)
    started = [] if stopping else _starts(state, changes, now, bounds)
    data = {
        key: value
        for key, value in (
            ("done", changes.done),
            ("continued", changes.continued),
            ("failed", changes.failed),
            ("ended_waits", changes.ended_waits),
            ("asked", [] if state.cancel is not None else _to_ask(state, changes)),
            ("started", started),
        )
        if value
    }
    if data:
        return Draft("advanced", {**data, "at": now}, epoch=epoch)
    return _end(state, epoch, now, bounds, not_ended)


def _settle(fold: RunFold, state: RunState, outcomes: Iterable[Outcome], now: float) -> _Changes:
    changes, num_bytes = _Changes(), 0
    for outcome in outcomes:
        step = state.steps.get(outcome.step)
        if step is None or step.status != "running" or step.attempts != outcome.attempt or outcome.kind == "stopped":
            continue
        num_bytes += outcome.num_bytes
        if changes.settled and num_bytes > MAX_BATCH_BYTES:
            break
        changes.settled.add(outcome.step)
        if outcome.kind == "done":
            changes.done.append([outcome.step, outcome.value])
        elif outcome.kind == "continued":
            changes.continued.append([outcome.step, outcome.value])
            _enter(fold.graph(outcome.value), changes)
        elif state.cancel is None:
            _fail(fold, state, step, outcome, changes, now)
    finished = [str(step) for step, _ in changes.done]
    changes.newly_ready += _unblocked(state, finished, changes)
    return changes


def _enter(graph: Graph, changes: _Changes) -> None:
    changes.options.update(graph.functions)
    for node in graph.nodes:
        changes.functions[node.step] = node.function
        if not node.needs and node.function not in KINDS:
            changes.newly_ready.append(node.step)


def _fail(fold: RunFold, state: RunState, step: StepState, outcome: Outcome, changes: _Changes, now: float) -> None:
    options = state.functions[step.node.function]
    kind = outcome.value["kind"]
    if kind == "lost":
        left, count = options["lost_attempts"] - step.lost - 1, step.lost + 1
    elif kind == "out_of_memory":
        left, count = options["out_of_memory_attempts"] - step.out_of_memory - 1, step.out_of_memory + 1
    else:
        left, count = options["attempts"] - step.failures - 1, step.failures + 1
    retry_at = None
    if left > 0 and outcome.retryable:
        retry_at = now + backoff_s(dict(options), count, random.random())  # noqa: S311 - jitter is no secret
        total_s = options["total_s"]
        if total_s is not None and retry_at > (step.first_started_at or now) + total_s:
            retry_at = None
    if retry_at is None and options["catch"]:
        changes.done.append([outcome.step, fold.encoded(Caught(error=StepFailure(**outcome.value)))])
        return
    changes.failed.append({"step": outcome.step, "error": outcome.value, "retry_at": retry_at})


def _end_waits(fold: RunFold, state: RunState, changes: _Changes, now: float) -> None:
    ended = []
    for step in state.waiting:
        wait = state.steps[step].wait
        if wait is not None and (value := _ended(fold, state, wait, now)) is not None:
            ended.append(step)
            changes.ended_waits.append([step, value])
            changes.settled.add(step)
    changes.newly_ready += _unblocked(state, ended, changes)


def _to_ask(state: RunState, changes: _Changes) -> list[str]:
    """Open approvals of which nobody was told yet."""
    open_waits = ((step, state.steps[step].wait) for step in state.waiting if step not in changes.settled)
    return [
        step for step, wait in open_waits if wait is not None and wait.kind == "approval" and step not in state.asked
    ]


def _ended(fold: RunFold, state: RunState, wait: Wait, now: float) -> JSON | None:
    """The encoded result of a wait that is over, or None. What came before the time ran out counts, however late it is
    seen.
    """
    due = wait.due_at is not None and now >= wait.due_at
    if wait.kind == "sleep":
        return _passed_on(fold, state, wait.step) if due else None
    outcome = _delivered(fold, state, wait, due) if wait.kind == "event" else _decided(state, wait, due)
    return None if outcome is None else fold.encoded(outcome)


def _delivered(fold: RunFold, state: RunState, wait: Wait, due: bool) -> Event | None:
    found = state.events.get(wait.name)
    if found is not None and (wait.due_at is None or found["at"] <= wait.due_at):
        return Event(wait.name, fold.decoded(found["payload"]), found["by"])
    return Event(wait.name, expired=True) if due else None


def _decided(state: RunState, wait: Wait, due: bool) -> Approval | None:
    found = state.decisions.get(wait.step)
    if found is not None:
        outcome: Literal["approved", "rejected"] = "approved" if found["approved"] else "rejected"
        return Approval(wait.name, outcome, found["by"], found["reason"], wait.subject)
    return Approval(wait.name, "expired", subject=wait.subject) if due else None


def _passed_on(fold: RunFold, state: RunState, step: str) -> JSON:
    """The result of a sleep: what it was given, by reference if another step made it."""
    after = fold.arguments(state.steps[step].node)[1]["after"]
    return state.steps[after.step].result if isinstance(after, Ref) else fold.encoded(after)


def _unblocked(state: RunState, finished: Iterable[str], changes: _Changes) -> list[str]:
    """Steps for which these were the last results missing. Waits are not among them: they open with the record."""
    missing: dict[str, int] = {}
    ready = []
    for name in finished:
        for step in (name, state.steps[name].owner):
            for dependent in state.dependents.get(step, ()) if step else ():
                found = state.steps[dependent]
                missing[dependent] = missing.get(dependent, found.missing) - 1
                if missing[dependent] == 0 and found.node.function not in KINDS and found.status == "blocked":
                    ready.append(dependent)
                    changes.functions[dependent] = found.node.function
    changes.missing.update(missing)
    return ready


def _starts(state: RunState, changes: _Changes, now: float, bounds: Bounds) -> list[list[Any]]:
    running = [step for step in state.running if step not in changes.settled]
    coordinators = sum(_options(state, changes, step)["coordinator"] for step in running)
    due = [step for step in state.backoff if (state.steps[step].due_at or 0.0) <= now]
    started: list[list[Any]] = []
    for step in (*state.ready, *due, *changes.newly_ready):
        if len(running) + len(started) >= bounds.max_running:
            break
        if _options(state, changes, step)["coordinator"]:
            if coordinators >= bounds.max_coordinators:
                continue
            coordinators += 1
        known = state.steps.get(step)
        started.append([step, known.attempts + 1 if known else 1])
    return started


def _options(state: RunState, changes: _Changes, step: str) -> Mapping[str, Any]:
    function = changes.functions.get(step) or state.steps[step].node.function
    return changes.options.get(function) or state.functions[function]


def _end(state: RunState, epoch: int, now: float, bounds: Bounds, not_ended: Sequence[str] | None) -> Draft | None:
    """How the run ends, or that it parks; None while something is going on."""
    if state.cancel is not None:
        data = {
            "by": state.cancel["by"],
            "reason": state.cancel["reason"],
            "not_ended": list(not_ended or ()),
            "at": now,
        }
        return None if state.running and not_ended is None else Draft("cancelled", data, epoch=epoch)
    if state.running:
        return None
    if state.failed:
        step = next(iter(state.failed))
        error = state.steps[step].error
        reason = f"step {step} failed: {StepFailure(**error)}" if error else f"step {step} failed"
        return Draft("failed", {"step": step, "reason": reason[:1000], "at": now}, epoch=epoch)
    if state.steps[state.output].status == "succeeded" and not (state.ready or state.waiting or state.backoff):
        return Draft("succeeded", {"at": now}, epoch=epoch)
    wake_at = next_due(state)
    if state.ready or (wake_at is not None and wake_at <= now + bounds.inline_wait_s):
        return None
    return Draft("parked", {"wake_at": wake_at, "waits": list(state.waiting), "at": now}, epoch=epoch)


def next_due(state: RunState) -> float | None:
    """When the next wait or pause between attempts ends by itself, Unix seconds of store time."""
    times = [wait.due_at for step in state.waiting if (wait := state.steps[step].wait) and wait.due_at is not None]
    times += [due for step in state.backoff if (due := state.steps[step].due_at) is not None]
    return min(times, default=None)


def is_due(fold: RunFold, state: RunState, now: float) -> bool:
    """Whether a parked run has anything to do: somebody delivered or decided, or time ran out."""
    due = next_due(state)
    woken = state.wake_at is not None and state.wake_at <= now
    ended = (wait for step in state.waiting if (wait := state.steps[step].wait) is not None)
    return bool(
        woken
        or state.cancel is not None
        or state.ready
        or state.running
        or (due is not None and due <= now)
        or any(_ended(fold, state, wait, now) is not None for wait in ended)
    )
