"""A run's state as JSON, so that a long journal opens quickly. Derived: it may be lost at any time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workflows.engine.state import Claim, RunState, StepState, add_graph, reindex
from workflows.engine.waits import Wait
from workflows.log import JSON

if TYPE_CHECKING:
    from workflows.engine.state import RunFold

_PLAIN = (
    "status", "length", "created", "created_at", "updated_at", "code", "graphs", "epoch", "claims_without_progress",
    "events", "decisions", "asked", "cancel", "wake_at", "reason", "not_ended",
)  # fmt: skip
_STEP = (
    "status", "attempts", "failures", "lost", "out_of_memory", "due_at", "first_started_at", "started_at",
    "finished_at", "result", "error", "owner", "generation", "origin",
)  # fmt: skip
_FRESH = ("blocked", 0, 0, 0, 0, None, None, None, None, None, None, "", 0, "")


def dump(state: RunState) -> JSON:
    """Graphs stand as in the records (large ones as blobs), so only what happened is written out."""
    steps = {}
    for name, found in state.steps.items():
        row: list[Any] = [getattr(found, field) for field in _STEP]
        if tuple(row) != _FRESH:
            steps[name] = [*row, asdict(found.wait) if found.wait else None]
    return {
        **{field: getattr(state, field) for field in _PLAIN},
        "claim": asdict(state.claim) if state.claim else None,
        "steps": steps,
    }


def load(data: JSON, fold: RunFold) -> RunState:
    """The state that `dump` wrote."""
    state = RunState(**{field: data[field] for field in _PLAIN})
    state.graphs = [(owner, graph) for owner, graph in data["graphs"]]
    state.claim = Claim(**data["claim"]) if data["claim"] else None
    for owner, graph in state.graphs:
        add_graph(state, fold.graph(graph), owner)
    for name, row in data["steps"].items():
        node = state.steps[name].node
        wait = Wait(**row[-1]) if row[-1] else None
        state.steps[name] = StepState(node, 0, **dict(zip(_STEP, row, strict=False)), wait=wait)
    reindex(fold, state, state.updated_at)
    return state
