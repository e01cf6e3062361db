"""One trial, on the worker: trains a fresh model for some steps and reports its loss at each rung."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.common.language_model import (
    Corpus,
    Hyperparameters,
    ModelConfig,
    RowOrder,
    learning_rate,
    load_rows,
    make_optimizer,
    total_loss,
    train_step,
)
from steps.common.language_model.optimization import seed_step
from steps.common.language_model.start import first_model
from steps.tune.config import TuneConfig
from workflows.log import Blobs

DIVERGED_LOSS = 1e6
"""Stands for a loss that is not a number: ASHA compares it, nobody keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """What every trial of a sweep shares."""

    config: TuneConfig
    model: ModelConfig
    corpus: Corpus
    blobs: Blobs
    rungs: tuple[int, ...]


def train_trial(params: dict[str, Any], *, task: TrialTask) -> None:
    """Trains with the parameters proposed and reports `{steps, loss, diverged}` at each rung."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    config = task.config
    rows = load_rows(task.blobs, task.corpus.train)
    learned, judged = split_rows(len(rows), config.validation_rows, config.seed)
    train, validation = rows.select(learned), rows.select(judged)
    hyperparameters = Hyperparameters.of(params)
    device = "cuda" if config.gpus_per_trial else "cpu"
    model = first_model(task.model, task.corpus, task.blobs, config.seed).to(device)
    optimizer = make_optimizer(model, hyperparameters)
    order = RowOrder(len(train), config.seed)
    for step in range(config.max_steps):
        seed_step(config.seed, step, 0)
        model.train()
        loss = train_step(
            model,
            optimizer,
            train,
            order.take(step * config.rows_per_step, config.rows_per_step),
            rate=learning_rate(step, config.max_steps, hyperparameters),
            rows_per_microbatch=config.rows_per_microbatch,
        )
        diverged = not math.isfinite(loss)
        if step + 1 in task.rungs or diverged:
            model.eval()
            total, num_tokens = total_loss(model, validation, config.rows_per_microbatch)
            diverged = diverged or not math.isfinite(total)
            tune.report(
                {"steps": step + 1, "loss": DIVERGED_LOSS if diverged else total / num_tokens, "diverged": diverged}
            )
        if diverged:
            return


def split_rows(num_rows: int, num_validation: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows to learn from and rows to be judged on, both sorted; at most a quarter of all are judged on."""
    mixed = np.random.default_rng([seed, num_rows]).permutation(num_rows)
    count = min(num_validation, num_rows // 4) if num_rows > 3 else 0
    learned, judged = mixed[count:], mixed[:count]
    # A corpus of a few rows cannot spare any.
    return np.sort(learned), np.sort(judged if count else learned)
