"""Record 0 of a run: what it was asked to do, by which code, with which graph."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.engine.code import Project, difference
from workflows.engine.errors import RunMismatch, RunOver
from workflows.engine.graph import Graph, capture
from workflows.engine.packing import pack, unpack
from workflows.engine.state import RunState
from workflows.engine.step import address_of
from workflows.engine.waits import KINDS
from workflows.log import JSON, Blobs, Draft, canonical_json, decode, encode

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Launch:
    """A run that could be started.

    Attributes:
        builder: `module:qualname` of the builder.
        config: Encoded config.
        graph: What the builder made of it.
        code: The present code of the graph's functions and of the builder.
    """

    builder: str
    config: JSON
    graph: Graph
    code: Mapping[str, Any]

    def draft(
        self,
        run_id: str,
        blobs: Blobs,
        bundle: bytes,
        *,
        at: float,
        cause: Any,
        labels: Mapping[str, str] | None = None,
        parent: Any = None,
        reused: JSON = None,
    ) -> Draft:
        """Record 0."""
        ref = blobs.put(bundle, "application/zip")
        data = {
            "format": FORMAT,
            "run_id": run_id,
            "builder": self.builder,
            "config": self.config,
            "inputs": inputs_digest(self.builder, self.config),
            "graph": pack(self.graph.to_json(), blobs),
            "code": self.code,
            "bundle": {"sha256": ref.sha256, "size": ref.size, "media_type": ref.media_type},
            "cause": cause,
            "labels": dict(labels or {}),
            "parent": parent,
            "reused": pack(reused, blobs) if reused else None,
            "at": at,
        }
        return Draft("created", data)


def prepare(builder: Callable[[Any], Any], config: Any, blobs: Blobs, project: Project) -> Launch:
    """Builds the graph and describes the code behind it.

    Raises:
        GraphError: The builder or its graph cannot be written down as data.
    """
    address = address_of(builder)
    graph = capture(builder(config), lambda value: encode(value, blobs), where=f"what {address} returns")
    return Launch(address, encode(config, blobs), graph, project.describe(functions_of(graph, address)).to_json())


def functions_of(graph: Graph, builder: str) -> list[str]:
    """The functions whose code a run depends on: the builder's and the steps', not the engine's waits."""
    return [builder, *(function for function in graph.functions if function not in KINDS)]


def inputs_digest(builder: str, config: JSON) -> str:
    return hashlib.sha256(canonical_json({"builder": builder, "config": config})).hexdigest()


def new_run_id() -> str:
    """Sorts by time, and is hard to meet twice: `20261124-035006-9f3a1c`."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def check_same(run_id: str, state: RunState, launch: Launch, blobs: Blobs) -> None:
    """Lets a start attach to a run only if it asks for the very same.

    Raises:
        RunMismatch: It does not; says where.
        RunOver: The run was deleted.
    """
    if state.status == "deleted":
        raise RunOver(run_id, "deleted")
    created = state.created
    lines = []
    if created["builder"] != launch.builder:
        lines.append(f"builder: {created['builder']} -> {launch.builder}")
    lines += config_difference(decode(created["config"], blobs), decode(launch.config, blobs))
    lines += difference(state.code, launch.code, launch.graph.functions)
    if not lines and created["inputs"] != inputs_digest(launch.builder, launch.config):
        lines.append("config: its encoding differs")
    if not lines and unpack(state.graphs[0][1], blobs) != launch.graph.to_json():
        lines.append("graph: the builder makes another graph of the same config")
    if lines:
        raise RunMismatch(run_id, lines)


def config_difference(before: Any, after: Any) -> list[str]:
    """The values in which two configs differ, one line each: `train.steps: 20 -> 40`."""
    old, new = _flat(before), _flat(after)
    missing = "(not there)"
    return [
        f"{key or 'config'}: {old.get(key, missing)!s:.200} -> {new.get(key, missing)!s:.200}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, missing) != new.get(key, missing)
    ]


def _flat(value: Any) -> dict[str, str]:
    flat: dict[str, str] = {}
    stack = [("", value)]
    while stack:
        key, value = stack.pop()
        prefix = f"{key}." if key else ""
        fields = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
        if fields is None and hasattr(value, "__dataclass_fields__"):
            fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
        if fields:
            stack.extend((f"{prefix}{name}", item) for name, item in fields.items())
        else:
            flat[key] = repr(value)
    return flat
