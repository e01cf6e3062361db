from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Engine
from workflows.engine.state import RunState
from workflows.log import Log


@pytest.mark.parametrize(
    ("builder", "config"),
    [
        (graphs.small, {}),
        (graphs.loop_graph, {"rounds": 5}),
        (graphs.nested_graph, {}),
        (graphs.approval_graph, {"expires_s": 1}),
        (graphs.flaky_graph, {"failures": 1}),
        (graphs.failing_graph, {}),
    ],
)
def test_a_state_read_from_a_snapshot_is_the_folded_one(
    engine: Engine, folder: str, builder: Any, config: dict[str, Any]
) -> None:
    run_id = engine.start(builder, {**config, "folder": folder})
    runner = Simulated(engine, run_id)
    runner.claim()
    runner.finish(now=engine.store.now() + 100)
    fold = engine._fold
    state = fold.initial()
    for record in Log(engine.store, f"runs/{run_id}", fold).records():
        state = fold.apply(state, record)
        restored = fold.load(json.loads(json.dumps(fold.dump(state))))
        assert comparable(restored) == comparable(state)


def comparable(state: RunState) -> dict[str, Any]:
    fields = asdict(state)
    # A failure names its step; the order of the indexes is that of the graph after a reload.
    for index in ("ready", "running", "waiting", "backoff", "failed"):
        fields[index] = set(fields[index])
    return fields
