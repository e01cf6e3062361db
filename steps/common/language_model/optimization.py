"""One optimizer step, alike in a trial of one process and in training on many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from steps.common.language_model.loss import token_losses
from steps.common.language_model.order import Rows, share
from steps.common.language_model.packing import PackedRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """What tune searches and train uses.

    Attributes:
        learning_rate: Peak of the schedule.
        warmup_ratio: Part of all steps in which the rate rises from 0.
        weight_decay: On matrices; vectors have none.
    """

    learning_rate: float = 3e-3
    warmup_ratio: float = 0.1
    weight_decay: float = 0.1

    @classmethod
    def of(cls, params: Mapping[str, float]) -> Self:
        """From recorded values; what is missing takes the default, what is unknown is left out."""
        return cls(**{name: float(params[name]) for name in cls.names() if name in params})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(field.name for field in fields(cls))

    def values(self) -> dict[str, float]:
        """The values by name."""
        return asdict(self)


BETAS = (0.9, 0.95)
GRADIENT_CLIP = 1.0
FINAL_RATE = 0.1
"""The cosine ends at a tenth of the peak (Hoffmann et al. 2022)."""


def learning_rate(step: int, num_steps: int, params: Hyperparameters) -> float:
    """Rate of a step, counted from 0: linear warm-up, then a cosine down to a tenth of the peak."""
    warmup = max(1, round(params.warmup_ratio * num_steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return params.learning_rate * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def make_optimizer(model: Any, params: Hyperparameters) -> Any:
    """AdamW over the weights that learn; matrices decay, vectors (norms) do not."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=params.learning_rate, betas=BETAS)


def train_step(
    model: Any,
    optimizer: Any,
    corpus: PackedRows,
    batch: Rows,
    *,
    rate: float,
    rows_per_microbatch: int,
    rank: int = 0,
    world_size: int = 1,
) -> float:
    """Takes one step on a global batch, of which this worker computes its share.

    The gradient is that of the mean over all tokens of the global batch, whatever the number of workers: each worker
    sums its tokens and divides by the global count, and `world_size` undoes the averaging of
    `DistributedDataParallel` and of `fully_shard`. Workers of a sharded model compute together, so they must have
    equally many rows.

    Returns:
        This worker's part of the global mean loss; the parts of all workers add up to it.
    """
    import torch

    num_tokens = max(1, corpus.select(batch).num_targets)
    own = share(batch, rank, world_size)
    pieces = [own[at : at + rows_per_microbatch] for at in range(0, len(own), rows_per_microbatch)]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for number, rows in enumerate(pieces):
        last = number == len(pieces) - 1
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        with model.no_sync() if hasattr(model, "no_sync") and not last else nullcontext():
            loss = token_losses(model, corpus.select(rows)).sum() / num_tokens
            (loss * world_size).backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_([w for w in model.parameters() if w.requires_grad], GRADIENT_CLIP)
    optimizer.step()
    return total


def seed_step(seed: int, step: int, rank: int) -> None:
    """Makes torch's random numbers a function of (seed, step, rank), so that a resumed step draws the same ones."""
    import torch

    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1)))
