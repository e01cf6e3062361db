"""The present code beside the recorded one: what a run that goes on must accept, and what a fork of it starts with."""

from __future__ import annotations

import logging
from typing import Any, Literal

from workflows.engine.code import Project, difference
from workflows.engine.errors import CodeChanged
from workflows.engine.launch import Launch, prepare
from workflows.engine.packing import pack, unpack
from workflows.engine.state import RunState
from workflows.engine.step import resolve
from workflows.engine.waits import KINDS
from workflows.log import Blobs, decode

CodeMode = Literal["same", "accept", "recorded"]
_logger = logging.getLogger(__name__)


def again(state: RunState, config: Any, blobs: Blobs, project: Project) -> Launch:
    """What the recorded builder makes today, of the recorded config unless another one is given."""
    recorded = decode(state.created["config"], blobs) if config is None else config
    return prepare(resolve(state.created["builder"]), recorded, blobs, project)


def present_code(state: RunState, project: Project) -> dict[str, Any]:
    """The digests of the builder and the steps as they are now."""
    functions = [state.created["builder"], *(f for f in state.functions if f not in KINDS)]
    return project.describe(functions).to_json()


def unfinished(state: RunState) -> list[str]:
    """The functions of the steps that have still to run."""
    return [found.node.function for found in state.steps.values() if found.status != "succeeded"]


def code_changes(run_id: str, state: RunState, mode: CodeMode, blobs: Blobs, project: Project) -> dict[str, Any]:
    """What the claim must say about code.

    Raises:
        CodeChanged: The code is not the recorded one, and nobody accepted that.
    """
    if mode == "recorded":
        return {}
    present = present_code(state, project)
    lines = difference(state.code, present, unfinished(state))
    builder = state.created["builder"]
    graph = None
    if difference(state.code, present, [builder]):
        launch = again(state, None, blobs, project)
        if launch.graph.to_json() != unpack(state.graphs[0][1], blobs):
            lines.append(f"{builder}: makes another graph")
            graph = pack(launch.graph.to_json(), blobs)
            present = dict(launch.code)
    if not lines:
        return {}
    if mode == "same":
        raise CodeChanged(run_id, lines)
    _logger.info("run %s goes on with changed code: %s", run_id, "; ".join(lines))
    return {"code": present, "graph": graph}
