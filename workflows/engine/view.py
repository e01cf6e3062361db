"""What people and programs see of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflows.engine.claims import describe
from workflows.engine.context import attempt_folder
from workflows.engine.errors import StepFailure
from workflows.engine.state import RunState, RunStatus, StepState, StepStatus
from workflows.engine.waits import Wait
from workflows.log import NotFound, Store


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running step says it is.

    Attributes:
        done: Units done.
        total: Units in all.
        message: A sentence.
        metrics: Numbers by name.
        at: When it said so, Unix seconds.
    """

    done: float
    total: float
    message: str
    metrics: Mapping[str, float]
    at: float


@dataclass(frozen=True, slots=True)
class StepView:
    """One step of a run.

    Attributes:
        name: Its id.
        function: `module:qualname`.
        status: Where it stands.
        attempts: Attempts started.
        started_at: Start of the last attempt, Unix seconds.
        finished_at: When it succeeded or failed.
        progress: What it last said, while it runs.
        error: Its failure; also that of an attempt that will be repeated.
        wait: What it waits for.
        origin: The run that its result was taken from, empty if it ran here.
    """

    name: str
    function: str
    status: StepStatus
    attempts: int
    started_at: float | None
    finished_at: float | None
    progress: Progress | None
    error: StepFailure | None
    wait: Wait | None
    origin: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line about a run.

    Attributes:
        run_id: Its id.
        status: Where it stands; `running` says that it was claimed, not that the runner lives: see `held`.
        created_at: Unix seconds.
        updated_at: Time of the last record.
        wake_at: When a parked run has something to do by itself.
        held: Whether a living runner drives it.
        claims_without_progress: Times it was taken up since anything was last finished.
        reason: Why it failed or was ended.
        cause: Why it was started.
    """

    run_id: str
    status: RunStatus
    created_at: float
    updated_at: float
    wake_at: float | None
    held: bool
    claims_without_progress: int
    reason: str
    cause: Any


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as of one moment.

    Attributes:
        run_id: Its id.
        status: Where it stands.
        steps: In an order in which they could run; continuations at the end.
        created_at: Unix seconds.
        updated_at: Time of the last record.
        output: The step that gives the run's result.
        reason: Why it failed or was ended.
        waits: Open waits.
        wake_at: When a parked run has something to do by itself.
        runner: Who claimed it last.
        epoch: That claim.
        held: Whether a living runner drives it.
        not_ended: Steps that could not be stopped when the run was cancelled.
        cause: Why it was started.
        parent: The run it was forked from.
        builder: What built its graph.
        mended: The run whose whole records it goes on with, because a later one was corrupt.
    """

    run_id: str
    status: RunStatus
    steps: tuple[StepView, ...]
    created_at: float
    updated_at: float
    output: str
    reason: str
    waits: tuple[Wait, ...]
    wake_at: float | None
    runner: str
    epoch: int
    held: bool
    not_ended: tuple[str, ...]
    cause: Any
    parent: str
    builder: str
    mended: str = ""

    def step(self, name: str) -> StepView:
        """The step of that id.

        Raises:
            KeyError: There is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)


def summary_of(run_id: str, state: RunState, *, held: bool) -> RunSummary:
    """The run as one line of a list; `held` says whether a living runner drives it."""
    return RunSummary(
        run_id=run_id,
        status=state.status,
        created_at=state.created_at,
        updated_at=state.updated_at,
        wake_at=state.wake_at,
        held=held,
        claims_without_progress=state.claims_without_progress,
        reason=state.reason,
        cause=state.created.get("cause"),
    )


def view_of(run_id: str, state: RunState, store: Store, *, held: bool) -> RunView:
    """The view of a state, with the progress that running steps left in the store; `held` says whether a living runner
    drives it.
    """
    return RunView(
        run_id=run_id,
        status=state.status,
        steps=tuple(_step_view(run_id, name, found, state, store) for name, found in state.steps.items()),
        created_at=state.created_at,
        updated_at=state.updated_at,
        output=state.output,
        reason=state.reason,
        waits=tuple(wait for name in state.waiting if (wait := state.steps[name].wait) is not None),
        wake_at=state.wake_at,
        runner=describe(state.claim.runner) if state.claim else "",
        epoch=state.epoch,
        held=held,
        not_ended=tuple(state.not_ended),
        cause=state.created.get("cause"),
        parent=(state.created.get("parent") or {}).get("run", ""),
        mended=state.created["run_id"] if state.created["run_id"] != run_id else "",
        builder=state.created["builder"],
    )


def _step_view(run_id: str, name: str, found: StepState, state: RunState, store: Store) -> StepView:
    running = found.status == "running" and state.status == "running"
    return StepView(
        name=name,
        function=found.node.function,
        status=found.status,
        attempts=found.attempts,
        started_at=found.started_at,
        finished_at=found.finished_at,
        progress=_progress(store, run_id, name, found.attempts) if running else None,
        error=StepFailure(**found.error) if found.error else None,
        wait=found.wait if found.status == "waiting" else None,
        origin=found.origin,
    )


def _progress(store: Store, run_id: str, step: str, attempt: int) -> Progress | None:
    try:
        return Progress(**json.loads(store.get(f"{attempt_folder(run_id, step, attempt)}/progress.json")))
    except NotFound:
        return None
