"""What a step tells of itself while it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workflows.engine import Engine
from workflows.engine.context import Context, attempt_folder


@pytest.fixture
def step_run(engine: Engine) -> Context:
    return Context(engine.store, engine.blobs, run_id="r", step_id="tune", attempt=1, epoch=1, origin="r", length=1)


def shown(engine: Engine) -> Any:
    return json.loads(engine.store.get(f"{attempt_folder('r', 'tune', 1)}/progress.json"))


def test_a_new_phase_is_shown_at_once_and_what_moves_only_now_and_then(engine: Engine, step_run: Context) -> None:
    step_run.progress(0, 2, "packing rows")
    step_run.progress(0, 2, "starting workers")
    assert shown(engine)["message"] == "starting workers"

    for done in range(1, 50):
        step_run.progress(done / 25, 2, f"step {done}")
    assert shown(engine)["message"] != "step 49"  # all within a second
