from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from steps.common.alone import AloneContext
from steps.common.context import Checkpoint
from steps.common.language_model import ModelConfig, load_model
from steps.common.results import DatasetVersion, Trial, TuningResult
from steps.train import TrainConfig, run
from steps.train.state import TrainedModel, TrainingState
from workflows.log import Blobs, open_store

TRIAL = Trial(
    name="trial-0",
    params={"learning_rate": 0.01, "warmup_ratio": 0.1, "weight_decay": 0.1},
    loss=1.0,
    num_steps=1,
    status="completed",
    seconds=1.0,
    origin="default",
)
TUNING = TuningResult(best=TRIAL, trials=(TRIAL,))
CONFIG = TrainConfig(num_steps=32, checkpoint_every_steps=8, rows_per_step=8)


class KillingContext(AloneContext):
    """Kills a worker of the training with -9 when a certain state has been recorded."""

    kill_at = ""
    killed: int | None = None

    def checkpoint(self, name: str, data: Any) -> None:
        super().checkpoint(name, data)
        if name == self.kill_at and self.killed is None:
            workers = [
                process
                for process in psutil.process_iter(["cmdline"])
                if "RayTrainWorker" in "".join(process.info["cmdline"] or ()) and descends(process)
            ]
            self.killed = workers[-1].pid if workers else None
            if self.killed:
                os.kill(self.killed, signal.SIGKILL)


def descends(process: psutil.Process) -> bool:
    """Whether a process belongs to this test session: another one may train on the same machine."""
    try:
        return os.getpid() in {parent.pid for parent in process.parents()}
    except psutil.NoSuchProcess:
        return False


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning", "ignore:The ``noload`` loader"
)
def test_a_training_that_was_killed_twice_gives_the_weights_of_one_that_was_not(
    ray_head: str,
    learning_storage: str,
    text_dataset: Callable[..., DatasetVersion],
    small_model: ModelConfig,
    tmp_path: Path,
) -> None:
    dataset = text_dataset()
    handler = signal.getsignal(signal.SIGINT)
    with AloneContext(learning_storage, step="train", inputs="whole") as ctx:
        whole = run(CONFIG, small_model, dataset, TUNING, ctx)
    with AloneContext(learning_storage, step="train", inputs="whole") as ctx:
        recorded = list(ctx.previous)
        states = [each.data for each in recorded if isinstance(each.data, TrainingState)]
        # The whole training is recorded: registering again trains nothing, and makes nothing new.
        assert run(CONFIG, small_model, dataset, TUNING, ctx) == whole
    assert signal.getsignal(signal.SIGINT) is handler
    assert [state.step for state in states] == [8, 16, 24, 32]
    assert isinstance(recorded[-1].data, TrainedModel)

    # Another attempt, of which only the first state survived; one of its workers is killed on the way.
    with KillingContext(learning_storage, step="train", inputs="interrupted") as ctx:
        ctx.previous = [Checkpoint(1, "step-8", states[0])]
        ctx.kill_at = "step-16"
        resumed = run(CONFIG, small_model, dataset, TUNING, ctx)
    assert ctx.killed is not None
    assert resumed.model == whole.model
    assert resumed.heldout_loss == whole.heldout_loss
    assert resumed.num_tokens == whole.num_tokens
    assert resumed.version != whole.version

    assert whole.heldout_loss < whole.unigram_loss - 0.3
    assert whole.params == TRIAL.params
    blobs = Blobs(open_store(learning_storage))
    model = load_model(blobs.fetch_tree(whole.model, tmp_path / "model"))
    assert model.config.vocab_size <= small_model.vocab_size
    assert whole.num_parameters == sum(weight.numel() for weight in model.parameters())
