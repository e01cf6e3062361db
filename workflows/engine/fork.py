"""Runs made of other runs: a fork takes over what another one has finished, but for one step and all that follow
from it; a mended run takes over the records before a corrupt one.

What is shared is renewed first, so that garbage collection counts its grace from now on.
"""

from __future__ import annotations

import logging
from typing import Any

from workflows.engine.errors import StepNotFound
from workflows.engine.launch import Launch
from workflows.engine.state import RunState, downstream
from workflows.log import Blobs, NotFound, Verification, fork_log, keep_reachable, log_references, references

_logger = logging.getLogger(__name__)


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


def keep_shared(reused: dict[str, Any], blobs: Blobs) -> None:
    """Renews the blobs that a fork takes over by reference.

    Raises:
        NotFound: One of them is gone: fork from an earlier step.
    """
    missing = keep_reachable(blobs, references(reused))
    if missing:
        raise NotFound(blobs.store.uri, blobs.key(missing[0]))


def mend(blobs: Blobs, run_id: str, new_id: str, found: Verification) -> None:
    """Makes a new run of the records before a corrupt one. The old run stays as it is.

    Args:
        blobs: Of the storage.
        run_id: The run.
        new_id: Id of the new one.
        found: What the check of the old one found.

    Raises:
        ValueError: Nothing is wrong with the run, or nothing is left of it.
    """
    store = blobs.store
    if found.ok:
        raise ValueError(f"run {run_id!r} is whole: {found.length} records")
    if not found.length:
        raise ValueError(f"nothing of run {run_id!r} can be trusted: {found.reason}")
    fork_log(store, f"runs/{run_id}", f"runs/{new_id}", found.length)
    missing = keep_reachable(blobs, log_references(store, f"runs/{new_id}"))
    if missing:
        _logger.warning("run %s names blobs that are gone: %s", new_id, ", ".join(missing))


def _same_question(parent: RunState, node: Any) -> bool:
    found = parent.steps.get(node.step)
    return (
        found is not None
        and found.status == "succeeded"
        and found.node.function == node.function
        and found.node.arguments == node.arguments
    )
