from __future__ import annotations

import pickle
from typing import Any

import pytest

from steps.common.language_model import (
    Hyperparameters,
    ModelConfig,
    PackedRows,
    SpecialIds,
    build_model,
    make_optimizer,
    pack,
    train_step,
)
from steps.common.language_model.order import RowOrder
from steps.train import TrainConfig
from steps.train.errors import DivergedError, UnfinishedError
from steps.train.state import CurvePoint, TrainingState, WorkFolder, gather_tensors, load_tensors, newest, save_tensors
from steps.train.training import curve_json, smoothed_loss, training_identity
from workflows.log import Blobs, TreeRef, open_store

SPECIAL = SpecialIds(pad=0, bos=1, eos=2)
TREE = TreeRef("a" * 64, 1, 1)


def state(step: int, identity: str = "x") -> TrainingState:
    point = CurvePoint(step=step, tokens=step * 10, loss=0.1 + 0.2, lr=1e-3, at=1.5)
    return TrainingState(
        identity=identity,
        step=step,
        cursor=step * 8,
        epoch=0,
        num_tokens=step * 10,
        seconds=1.0,
        curve=(point,),
        pending=(0.1 + 0.7,),
        tensors=TREE,
    )


def advance(model: Any, optimizer: Any, rows: PackedRows, steps: range) -> None:
    order = RowOrder(len(rows), 0)
    for step in steps:
        train_step(model, optimizer, rows, order.take(step * 4, 4), rate=1e-2, rows_per_microbatch=4)


def test_weights_and_moments_come_back_bit_for_bit(learning_storage: str, small_model: ModelConfig) -> None:
    import torch

    blobs = Blobs(open_store(learning_storage))
    rows = pack([[1, *range(3 + n, 40 + n), 2] for n in range(20)], 64, SPECIAL.pad)
    model = build_model(small_model, 320, SPECIAL, 0)
    optimizer = make_optimizer(model, Hyperparameters())
    advance(model, optimizer, rows, range(3))
    tree = save_tensors(gather_tensors(model, optimizer), blobs)
    advance(model, optimizer, rows, range(3, 6))

    resumed = build_model(small_model, 320, SPECIAL, 1)
    resumed_optimizer = make_optimizer(resumed, Hyperparameters())
    load_tensors(resumed, resumed_optimizer, blobs, tree)
    advance(resumed, resumed_optimizer, rows, range(3, 6))
    assert save_tensors(gather_tensors(resumed, resumed_optimizer), blobs) == save_tensors(
        gather_tensors(model, optimizer), blobs
    )
    for name, weight in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)
    assert set(blobs.tree(tree)) == {"state.safetensors"}


def test_the_furthest_state_of_the_same_training_counts() -> None:
    others = [state(9, "other"), {"step": 99}, None]
    assert newest([state(2), state(6), state(4), *others], "x") == state(6)
    assert newest(others, "x") is None


def test_a_work_folder_gives_back_what_the_workers_named(learning_storage: str) -> None:
    store = open_store(learning_storage)
    folder = WorkFolder(store, Blobs(store), "runs/r/steps/train/0001/train")
    assert folder.states() == []
    assert folder.result() is None
    assert folder.progress() is None
    folder.put_state(state(4))
    folder.put_state(state(12))
    folder.put_progress(12, 0.5, 900.0)
    [(first, _), (_, last)] = folder.states()
    assert last == state(12)
    assert [found for _, found in folder.states(after=first)] == [state(12)]
    assert folder.progress() == (12, 0.5, 900.0)


def test_only_what_decides_the_weights_makes_another_training(small_model: ModelConfig, text_dataset: Any) -> None:
    dataset, params, config = text_dataset(), Hyperparameters(), TrainConfig()

    def identity(**changes: Any) -> str:
        return training_identity(config.model_copy(update=changes), small_model, dataset, params)

    assert identity() == identity(num_workers=1, checkpoint_every_steps=1, tracking_uri="http://x")
    assert len({identity(), identity(num_steps=7), identity(seed=7), identity(sabotage="random_weights")}) == 4


def test_the_smoothed_loss_is_that_of_the_last_tenth() -> None:
    curve = tuple(CurvePoint(step=n, tokens=n, loss=float(n), lr=0.1, at=0.0) for n in range(1, 41))
    assert smoothed_loss(curve) == pytest.approx((37 + 38 + 39 + 40) / 4)
    assert smoothed_loss(curve[:1]) == 1.0
    assert curve_json(curve[:1]) == b'[{"step": 1, "tokens": 1, "loss": 1.0, "lr": 0.1}]'


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows_per_step": 1, "num_workers": 2}, "rows_per_step=1 must be at least num_workers=2"),
        ({"sabotage": "all"}, "sabotage"),
        ({"model_name": "a/b"}, "model_name"),
        ({"steps": 3}, "steps"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_errors_travel() -> None:
    for error in (DivergedError(3, 0.5), UnfinishedError("runs/r")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
