"""Step train: trains a Llama with Ray Train on packed rows, registers it in MLflow.

Takes the dataset version, the shape of the model and the parameters that tune found. Gives a `ModelVersion`: a verified
folder of safetensors in storage, a version in the registry, and how far its loss is below that of a unigram model.

A re-run is safe: the newest complete training state of any attempt is continued, bit for bit as if nothing had
happened when the number of workers is the same, and the lost work is at most `checkpoint_every_steps`. The MLflow run
and version carry the step's token and are looked up before they are made.

Alone: `python -m steps.train --storage URI --inputs dataset.json --inputs tuning.json [--set num_steps=40]`.
"""

from __future__ import annotations

from steps.train.config import TrainConfig
from steps.train.training import run

__all__ = ["TrainConfig", "run"]
