"""The state of a training: what it is, and how it gets into storage and back. Safetensors and JSON, no pickles."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.train.sharding import like, whole
from workflows.log import Blobs, Store, TreeRef, decode, encode

_TENSORS = "state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A point of the loss curve: the mean over the steps since the point before.

    Attributes:
        step: Optimizer steps taken.
        tokens: Tokens learned from so far.
        loss: Nats per token.
        lr: Learning rate of the last of these steps.
        at: Unix seconds.
    """

    step: int
    tokens: int
    loss: float
    lr: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where a training stands.

    Torch's random numbers are no part of it: each step seeds them anew from (seed, step, rank).

    Attributes:
        identity: Digest of everything that decides the weights; a state of another training is no state of this one.
        step: Optimizer steps taken; the rate schedule is a function of it.
        cursor: Rows learned from; the row order is a function of it.
        epoch: Passes over the corpus completed.
        num_tokens: Tokens learned from.
        seconds: Wall time so far, earlier attempts included.
        curve: The loss curve so far.
        pending: Losses of the steps since the last point of the curve.
        tensors: Weights that learn, and the optimizer's moments.
    """

    identity: str
    step: int
    cursor: int
    epoch: int
    num_tokens: int
    seconds: float
    curve: tuple[CurvePoint, ...]
    pending: tuple[float, ...]
    tensors: TreeRef


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What the workers leave.

    Attributes:
        identity: As in `TrainingState`.
        model: The model folder.
        num_parameters: Number of weights.
        heldout_loss: Nats per token on the held-out rows.
        state: The last state.
    """

    identity: str
    model: TreeRef
    num_parameters: int
    heldout_loss: float
    state: TrainingState


def gather_tensors(model: Any, optimizer: Any) -> dict[str, Any]:
    """The weights that learn and the optimizer's moments, whole and on the CPU. Workers of a sharded model all ask."""
    tensors = {f"model.{name}": whole(weight) for name, weight in learning_weights(model).items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": whole(tensor) for name, tensor in moments.items()}
    return tensors


def save_tensors(tensors: Mapping[str, Any], blobs: Blobs) -> TreeRef:
    """Puts gathered tensors into storage."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="everloop-state-") as folder:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / _TENSORS)
        return blobs.put_tree(Path(folder))


def load_tensors(model: Any, optimizer: Any, blobs: Blobs, tree: TreeRef) -> None:
    """Puts a saved state back in place."""
    import torch
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(prefix="everloop-state-") as folder:
        tensors = load_file(blobs.fetch_tree(tree, Path(folder)) / _TENSORS)
    with torch.no_grad():
        for name, weight in learning_weights(model).items():
            weight.copy_(like(weight, tensors[f"model.{name}"]))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".", 2)
            weight = weights[int(index)]
            moments.setdefault(int(index), {})[moment] = like(weight, tensor) if tensor.ndim else tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def learning_weights(model: Any) -> dict[str, Any]:
    """The weights that learn, by name; tied ones once."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def newest(states: Iterable[Any], identity: str) -> TrainingState | None:
    """The furthest state of this training among what earlier attempts recorded."""
    own = [state for state in states if isinstance(state, TrainingState) and state.identity == identity]
    return max(own, key=lambda state: state.step, default=None)


class WorkFolder:
    """Where the workers of one attempt write, and its coordinator reads.

    The coordinator is not told directly: Ray Train has its callbacks in a process of its own, which could not record.

    Args:
        store: The run's storage.
        blobs: The blobs in it.
        prefix: The folder, written by this attempt alone.
    """

    def __init__(self, store: Store, blobs: Blobs, prefix: str) -> None:
        self.store = store
        self.blobs = blobs
        self.prefix = prefix

    def put_state(self, state: TrainingState) -> None:
        """Names a state; its tensors are in storage already, so what is named is complete."""
        self._put(f"states/{state.step:09}.json", state)

    def states(self, after: str = "") -> list[tuple[str, TrainingState]]:
        """The states named so far with their keys, by step; only those after a key, if one is given."""
        found = self.store.list(f"{self.prefix}/states/", after=after)
        return [(info.key, self._get(info.key)) for info in found]

    def put_result(self, result: TrainedModel) -> None:
        """Names the trained model."""
        self._put("result.json", result)

    def result(self) -> TrainedModel | None:
        """The trained model, once there is one."""
        key = f"{self.prefix}/result.json"
        return self._get(key) if self.store.head(key) else None

    def put_progress(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Shows how far the workers are."""
        self.store.put(f"{self.prefix}/progress.json", json.dumps([step, loss, tokens_per_s]).encode())

    def progress(self) -> tuple[int, float, float] | None:
        """Step, loss and tokens per second, or None before the first step."""
        key = f"{self.prefix}/progress.json"
        if self.store.head(key) is None:
            return None
        step, loss, tokens_per_s = json.loads(self.store.get(key))
        return int(step), float(loss), float(tokens_per_s)

    def _put(self, name: str, value: Any) -> None:
        self.store.put(f"{self.prefix}/{name}", json.dumps(encode(value, self.blobs)).encode())

    def _get(self, key: str) -> Any:
        return decode(json.loads(self.store.get(key)), self.blobs)
