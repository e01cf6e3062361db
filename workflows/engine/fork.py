"""Fork: a new run that takes over what another one has finished, but for one step and all that follow from it."""

from __future__ import annotations

from typing import Any

from workflows.engine.errors import StepNotFound
from workflows.engine.launch import Launch
from workflows.engine.state import RunState, downstream


def reused_steps(parent_id: str, parent: RunState, launch: Launch, from_step: str) -> dict[str, Any]:
    """The results that a fork takes over, by step: finished, not behind `from_step`, and asked the same question as
    before.

    A result is JSON that names blobs, so nothing large is copied.

    Raises:
        StepNotFound: The new graph has no such step.
    """
    nodes = {node.step: node for node in launch.graph.nodes}
    if from_step not in nodes:
        raise StepNotFound(parent_id, from_step, tuple(nodes))
    dependents: dict[str, list[str]] = {}
    for node in launch.graph.nodes:
        for need in node.needs:
            dependents.setdefault(need, []).append(node.step)
    changed = [step for step, node in nodes.items() if not _same_question(parent, node)]
    again = downstream(dependents, [from_step, *changed])
    return {
        step: {"result": parent.steps[step].result, "run": parent.steps[step].origin or parent_id}
        for step in nodes
        if step not in again
    }


def _same_question(parent: RunState, node: Any) -> bool:
    found = parent.steps.get(node.step)
    return (
        found is not None
        and found.status == "succeeded"
        and found.node.function == node.function
        and found.node.arguments == node.arguments
    )
