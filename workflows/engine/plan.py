"""A dry run: what each step would do, before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workflows.engine.launch import Launch
from workflows.engine.state import RunState
from workflows.engine.waits import KINDS

Action = Literal["reused", "changed", "will run", "will wait"]


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """What one step would do.

    Attributes:
        step: Its id.
        function: `module:qualname`.
        action: `reused`: its recorded result stands. `changed`: it stands too, though the code behind it has changed
        since.
            `will run`, `will wait`: what they say.
        reason: Why.
        effects: What it changes outside the run, in its own words.
        coordinator: Whether it drives other Ray work.
    """

    step: str
    function: str
    action: Action
    reason: str
    effects: str
    coordinator: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a command would do.

    Attributes:
        run_id: The run, empty if it would be a new one.
        status: Where it stands.
        entries: Its steps, in an order in which they could run.
        difference: How the present code differs from the recorded one, for steps that would run.
    """

    run_id: str
    status: str
    entries: tuple[PlanEntry, ...]
    difference: tuple[str, ...] = ()


def plan_launch(launch: Launch, reused: Mapping[str, Any] | None = None) -> Plan:
    """The plan of a new run, or of a fork that takes over some results."""
    entries = []
    for node in launch.graph.nodes:
        options = launch.graph.functions[node.function]
        if reused and node.step in reused:
            entries.append(_entry(node.step, node.function, "reused", f"result of {reused[node.step]['run']}", options))
        else:
            entries.append(_entry(node.step, node.function, _runs(node.function), "not run yet", options))
    return Plan("", "new", tuple(entries))


def plan_resume(run_id: str, state: RunState, present: Mapping[str, Any], difference: list[str]) -> Plan:
    """The plan of driving a run on, given the present code."""
    entries = []
    for name, found in state.steps.items():
        function, options = found.node.function, state.functions[found.node.function]
        recorded = state.code["functions"].get(function)
        same = function in KINDS or recorded is None or recorded == present["functions"].get(function)
        if found.status == "succeeded":
            origin = f", result of {found.origin}" if found.origin else ""
            if same:
                entries.append(_entry(name, function, "reused", f"recorded{origin}", options))
            else:
                entries.append(
                    _entry(name, function, "changed", f"recorded{origin}; its code has changed since", options)
                )
            continue
        why = {
            "blocked": "waits for other steps",
            "ready": "ready",
            "running": f"attempt {found.attempts} was not recorded" if found.attempts else "ready",
            "waiting": "its wait is open",
            "backoff": f"attempt {found.attempts} failed, to be repeated",
            "continuing": "its continuation is not finished",
            "failed": f"failed at attempt {found.attempts}",
        }[found.status]
        entries.append(
            _entry(name, function, _runs(function), why if same else f"{why}; its code has changed", options)
        )
    return Plan(run_id, state.status, tuple(entries), tuple(difference))


def _runs(function: str) -> Action:
    return "will wait" if function in KINDS else "will run"


def _entry(step: str, function: str, action: Action, reason: str, options: Mapping[str, Any]) -> PlanEntry:
    return PlanEntry(step, function, action, reason, options["effects"], options["coordinator"])
