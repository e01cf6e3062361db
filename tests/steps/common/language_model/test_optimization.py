from __future__ import annotations

import numpy as np
import pytest

from steps.common.language_model import (
    Hyperparameters,
    ModelConfig,
    PackedRows,
    RowOrder,
    SpecialIds,
    build_model,
    learning_rate,
    make_optimizer,
    pack,
    train_step,
)
from steps.common.language_model.loss import total_loss, unigram_loss

SPECIAL = SpecialIds(pad=0, bos=1, eos=2)


@pytest.fixture
def rows() -> PackedRows:
    generator = np.random.default_rng(0)
    # Token n is followed by n + 1: learnable from the context, invisible to counts.
    documents = [[1, *(np.arange(s, s + 30) % 200 + 3).tolist(), 2] for s in generator.integers(0, 200, 60)]
    return pack(documents, 64, SPECIAL.pad)


def test_the_rate_rises_then_falls_to_a_tenth() -> None:
    params = Hyperparameters(learning_rate=1.0, warmup_ratio=0.1)
    rates = [learning_rate(step, 100, params) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert learning_rate(0, 1, params) == pytest.approx(1.0)


def test_parameters_from_a_record_may_be_more_or_fewer() -> None:
    assert Hyperparameters.of({"learning_rate": 0.5, "unknown": 1.0}) == Hyperparameters(learning_rate=0.5)


@pytest.mark.parametrize("rows_per_microbatch", [1, 3])
def test_micro_batches_do_not_change_a_step(
    rows: PackedRows, small_model: ModelConfig, rows_per_microbatch: int
) -> None:
    import torch

    models = [build_model(small_model, 320, SPECIAL, 0) for _ in range(2)]
    losses = [
        train_step(
            model,
            make_optimizer(model, Hyperparameters()),
            rows,
            RowOrder(len(rows), 0).take(0, 8),
            rate=1e-3,
            rows_per_microbatch=size,
        )
        for model, size in zip(models, (8, rows_per_microbatch), strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    gradients = [model.lm_head.weight.grad for model in models]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_the_parts_of_two_workers_add_up_to_the_loss_of_one(rows: PackedRows, small_model: ModelConfig) -> None:
    class Alone:
        """Stands for `DistributedDataParallel` of a worker whose neighbours are not asked."""

        def __init__(self, model: object) -> None:
            self.model = model

        def __getattr__(self, name: str) -> object:
            return getattr(self.model, name)

        def __call__(self, **kwargs: object) -> object:
            return self.model(**kwargs)  # type: ignore[operator]

    batch = RowOrder(len(rows), 0).take(0, 7)
    parts = []
    for rank, world_size in ((0, 1), (0, 2), (1, 2)):
        model = Alone(build_model(small_model, 320, SPECIAL, 0))
        optimizer = make_optimizer(model, Hyperparameters())
        part = train_step(
            model, optimizer, rows, batch, rate=1e-3, rows_per_microbatch=8, rank=rank, world_size=world_size
        )
        parts.append(part)
    assert parts[0] == pytest.approx(parts[1] + parts[2], rel=1e-5)


def test_a_small_model_beats_the_unigram_loss(rows: PackedRows, small_model: ModelConfig) -> None:
    model, params = build_model(small_model, 320, SPECIAL, 0), Hyperparameters(learning_rate=1e-2)
    optimizer, order = make_optimizer(model, params), RowOrder(len(rows), 0)
    for step in range(40):
        train_step(
            model,
            optimizer,
            rows,
            order.take(step * 8, 8),
            rate=learning_rate(step, 40, params),
            rows_per_microbatch=8,
        )
    total, num_tokens = total_loss(model.eval(), rows, 16)
    assert total / num_tokens < unigram_loss(rows, rows, 320) - 1.0


def test_the_unigram_loss_is_that_of_smoothed_counts() -> None:
    train, heldout = pack([[1, 5, 5, 6]], 8, 0), pack([[1, 5, 7]], 8, 0)
    # Counts of 5, 6, 7: 2, 1, 0, each plus one, over 3 tokens and 10 ids.
    expected = -(np.log(3 / 13) + np.log(1 / 13)) / 2
    assert unigram_loss(train, heldout, 10) == pytest.approx(expected)
