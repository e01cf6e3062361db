"""Step evaluate: the challenger meets the champion on held-out documents.

Takes the dataset version, the challenger and the champion. Gives an `Evaluation`: promote, hold or reject, with
reasons, the paired interval behind them and samples of text.

A re-run is safe: it changes nothing outside, and goes on after the last batch of documents that was scored.

Alone: `python -m steps.evaluate --storage URI --inputs dataset.json --inputs model.json [--set margin=0.02]`.
"""

from __future__ import annotations

from steps.evaluate.comparison import run
from steps.evaluate.config import EvaluateConfig
from steps.evaluate.verdict import decide

__all__ = ["EvaluateConfig", "decide", "run"]
