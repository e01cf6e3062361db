"""Step tune: searches for hyperparameters with Ray Tune (Optuna proposes, ASHA stops what lags behind).

Takes the dataset version, the shape of the model and the champion, whose parameters are always one trial. Gives a
`TuningResult`: the best trial and all of them.

A re-run is safe because the journal is the truth, not Tune's own storage: each finished trial is a checkpoint of the
step. Another attempt feeds the finished ones back to Optuna and to ASHA's rungs and runs only the rest, so a crash
costs the trials in flight, not the sweep.

Alone: `python -m steps.tune --storage URI --inputs dataset.json [--set max_steps=40] [--set model.hidden_size=128]`.
"""

from __future__ import annotations

from steps.tune.config import Range, TuneConfig
from steps.tune.sweep import run

__all__ = ["Range", "TuneConfig", "run"]
