"""Training on one of the workers of Ray Train."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steps.common.language_model import (
    Corpus,
    Hyperparameters,
    ModelConfig,
    PackedRows,
    RowOrder,
    learning_rate,
    load_rows,
    make_optimizer,
    num_parameters,
    save_model,
    share,
    total_loss,
    train_step,
)
from steps.common.language_model.base import merge_lora
from steps.common.language_model.optimization import seed_step
from steps.common.language_model.start import first_model
from steps.train.config import TrainConfig
from steps.train.errors import DivergedError
from steps.train.sharding import shard, unsharded, worker_device
from steps.train.state import (
    CurvePoint,
    TrainedModel,
    TrainingState,
    WorkFolder,
    gather_tensors,
    load_tensors,
    newest,
    save_tensors,
)

MAX_CURVE_POINTS = 400
PROGRESS_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTask:
    """What every worker is told.

    Attributes:
        config: Settings of the step.
        model: Shape of the model.
        corpus: Rows and tokenizer.
        params: What tune found.
        identity: Digest of everything that decides the weights.
        resume: The newest state of earlier attempts, or None.
        folder: Work folder of this attempt.
    """

    config: TrainConfig
    model: ModelConfig
    corpus: Corpus
    params: Hyperparameters
    identity: str
    resume: TrainingState | None
    folder: WorkFolder


def train_on_worker(task: TrainTask) -> None:
    """Trains from the newest state to the end; the first worker names states and, last, the trained model."""
    import ray.train
    import torch

    torch.set_num_threads(1)
    context = ray.train.get_context()
    rank, world_size = int(context.get_world_rank()), int(context.get_world_size())
    training = _Training(task, rank, world_size)
    training.restore(_agreed_state(task, rank))
    while training.step < task.config.num_steps:
        training.advance()
        at_end = training.step == task.config.num_steps
        if training.step % task.config.checkpoint_every_steps == 0 or at_end:
            state = training.save()
            if state is not None:
                task.folder.put_state(state)
            # A barrier: no worker runs ahead of a state by more than one interval.
            ray.train.report({"step": training.step})
    heldout_loss = training.finish()
    result = training.result(heldout_loss)
    if result is not None:
        task.folder.put_result(result)
    ray.train.report({"step": training.step, "heldout_loss": heldout_loss})


def _agreed_state(task: TrainTask, rank: int) -> TrainingState | None:
    """The state that all workers start from: the first worker chooses, the others are told.

    States of this attempt are there when its workers were restarted.
    """
    import torch

    chosen: list[TrainingState | None] = [None]
    if rank == 0:
        own = [state for _, state in task.folder.states()]
        chosen = [newest([task.resume, *own], task.identity)]
    torch.distributed.broadcast_object_list(chosen, src=0)
    return chosen[0]


class _Training:
    """Model, optimizer and position of one worker."""

    def __init__(self, task: TrainTask, rank: int, world_size: int) -> None:
        self.step = 0
        self._task = task
        self._rank = rank
        self._world_size = world_size
        self._rows = load_rows(task.folder.blobs, task.corpus.train)
        self._order = RowOrder(len(self._rows), task.config.seed)
        self._model = first_model(task.model, task.corpus, task.folder.blobs, task.config.seed).to(worker_device())
        self._is_sharded = task.config.strategy == "fsdp" and world_size > 1
        if self._is_sharded:
            shard(self._model)
        self._optimizer = make_optimizer(self._model, task.params)
        self._parallel: Any = self._model
        self._curve: list[CurvePoint] = []
        self._pending: list[float] = []
        self._num_tokens = 0
        self._seconds_before = 0.0
        self._started_at = time.monotonic()
        self._shown_at = float("-inf")
        self._tokens_here = 0
        self._last_loss = math.nan

    def restore(self, state: TrainingState | None) -> None:
        """Goes to a state, or stays at the beginning, and joins the other workers."""
        if state is not None:
            load_tensors(self._model, self._optimizer, self._task.folder.blobs, state.tensors)
            self.step = state.step
            self._curve = list(state.curve)
            self._pending = list(state.pending)
            self._num_tokens = state.num_tokens
            self._seconds_before = state.seconds
        if self._world_size > 1 and not self._is_sharded:
            from ray.train.torch import prepare_model

            self._parallel = prepare_model(self._model, parallel_strategy_kwargs={"broadcast_buffers": False})
        self._model.train()

    def advance(self) -> None:
        """Takes one optimizer step together with the other workers."""
        config = self._task.config
        seed_step(config.seed, self.step, self._rank)
        batch = self._order.take(self.step * config.rows_per_step, config.rows_per_step)
        rate = learning_rate(self.step, config.num_steps, self._task.params)
        part = train_step(
            self._parallel,
            self._optimizer,
            self._rows,
            batch,
            rate=rate,
            rows_per_microbatch=config.rows_per_microbatch,
            rank=self._rank,
            world_size=self._world_size,
        )
        [loss] = self._sum(part)
        if not math.isfinite(loss):
            raise DivergedError(self.step, rate)
        num_tokens = self._rows.select(batch).num_targets
        self.step += 1
        self._num_tokens += num_tokens
        self._tokens_here += num_tokens
        self._pending.append(loss)
        if self.step % max(1, config.num_steps // MAX_CURVE_POINTS) == 0 or self.step == config.num_steps:
            mean = sum(self._pending) / len(self._pending)
            point = CurvePoint(step=self.step, tokens=self._num_tokens, loss=mean, lr=rate, at=time.time())
            self._curve.append(point)
            self._pending.clear()
        self._show(loss)

    def save(self) -> TrainingState | None:
        """Puts the tensors into storage and gives the state that names them; None on all workers but the first."""
        if self._rank > 0 and not self._is_sharded:
            return None
        tensors = gather_tensors(self._model, self._optimizer)
        if self._rank > 0:
            return None
        config = self._task.config
        cursor = self.step * config.rows_per_step
        return TrainingState(
            identity=self._task.identity,
            step=self.step,
            cursor=cursor,
            epoch=self._order.epoch(cursor),
            num_tokens=self._num_tokens,
            seconds=self._seconds_before + time.monotonic() - self._started_at,
            curve=tuple(self._curve),
            pending=tuple(self._pending),
            tensors=save_tensors(tensors, self._task.folder.blobs),
        )

    def finish(self) -> float:
        """Makes the final model and measures it on the held-out rows, each worker on its share."""
        self._final = merge_lora(self._model) if self._task.corpus.base is not None else self._model
        if self._task.config.sabotage == "random_weights":
            _randomize(self._final, self._task.config.seed)
        self._final.eval()
        heldout = load_rows(self._task.folder.blobs, self._task.corpus.heldout)
        own: PackedRows = heldout.select(share(np.arange(len(heldout)), self._rank, self._world_size))
        size = self._task.config.rows_per_microbatch
        part = total_loss(self._final, own, size)
        most = -(-len(heldout) // self._world_size)
        if self._is_sharded and -(-len(own) // size) < -(-most // size):
            total_loss(self._final, heldout.select(slice(0, 1)), 1)  # the others need this worker's part of the weights
        total, num_tokens = self._sum(*part)
        return total / max(1.0, num_tokens)

    def result(self, heldout_loss: float) -> TrainedModel | None:
        """Puts the model folder into storage; None on all workers but the first."""
        state = self.save()
        final = unsharded(self._final) if self._is_sharded else self._final
        if state is None:
            return None
        blobs, corpus = self._task.folder.blobs, self._task.corpus
        with tempfile.TemporaryDirectory(prefix="everloop-model-") as name:
            tokenizer = blobs.fetch_tree(corpus.tokenizer, Path(name) / "tokenizer")
            files = {path.name: path.read_bytes() for path in sorted(tokenizer.iterdir())}
            save_model(final, files, Path(name) / "model")
            tree = blobs.put_tree(Path(name) / "model")
        return TrainedModel(
            identity=self._task.identity,
            model=tree,
            num_parameters=num_parameters(final),
            heldout_loss=heldout_loss,
            state=state,
        )

    def _sum(self, *values: float) -> list[float]:
        """Sums of values over all workers."""
        import torch

        totals = torch.tensor(values, dtype=torch.float64, device=worker_device())
        if self._world_size > 1:
            torch.distributed.all_reduce(totals)
        return [float(total) for total in totals]

    def _show(self, loss: float) -> None:
        now = time.monotonic()
        if self._rank == 0 and now - self._shown_at >= PROGRESS_INTERVAL_S:
            self._shown_at = now
            self._task.folder.put_progress(self.step, loss, self._tokens_here / max(1e-9, now - self._started_at))


def _randomize(model: Any, seed: int) -> None:
    import torch

    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            getattr(weight, "to_local", lambda weight=weight: weight)().normal_(0.0, 0.5)
