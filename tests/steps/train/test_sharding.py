"""A sharded training is the same training: its losses, its states and its model folder are those of a whole one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.common.language_model import load_model
from steps.train import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[3]


def train(folder: Path, strategy: str, world_size: int, state: Any = None) -> dict[str, Any]:
    """Trains in processes of their own; gives what the first one wrote."""
    command = [sys.executable, "-m", "tests.steps.train.sharded_worker"]
    more = [json.dumps(state)] if state else []
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), strategy, str(folder), *more],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        for worker in workers:
            said = worker.communicate(timeout=200)[0]
            assert worker.returncode == 0, said[-3000:]
    finally:
        for worker in workers:
            worker.kill()
    name = f"{strategy}-{world_size}" + ("-resumed" if state else "")
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_with_half_a_model_each_train_what_two_with_a_whole_one_do(tmp_path: Path) -> None:
    import torch

    whole = train(tmp_path, "ddp", 2)
    sharded = train(tmp_path, "fsdp", 2)

    assert sharded["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    assert whole["losses"][-1] < whole["losses"][0] - 0.5
    expected, found = (load_model(tmp_path / name).state_dict() for name in ("ddp-2", "fsdp-2"))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)

    # A state is whole, whoever wrote it: one process goes on from it as the two did.
    resumed = train(tmp_path, "fsdp", 2, sharded["state"])
    assert resumed["losses"] == sharded["losses"][3:]
    alone = train(tmp_path, "ddp", 1, sharded["state"])
    assert alone["losses"] == pytest.approx(sharded["losses"][3:], rel=1e-5)


def test_workers_that_compute_together_need_equal_shares() -> None:
    with pytest.raises(ValueError, match="num_workers=2 must divide rows_per_step=5"):
        TrainConfig(strategy="fsdp", rows_per_step=5, num_workers=2)
