from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from steps.common.alone import AloneContext
from steps.common.language_model import ModelConfig
from steps.common.releases import ReleasedModel
from steps.common.results import DatasetVersion
from steps.tune import TuneConfig, run
from workflows.log import TreeRef

CHAMPION = ReleasedModel(
    version="1",
    model=TreeRef("0" * 64, 0, 0),
    params={"learning_rate": 0.02, "warmup_ratio": 0.3, "weight_decay": 0.2},
    dataset="words@v1",
    run_id="run-1",
)


class DyingContext(AloneContext):
    """Dies right after it has recorded one trial."""

    def checkpoint(self, name: str, data: Any) -> None:
        super().checkpoint(name, data)
        raise ConnectionError(f"died after {name}")


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_killed_sweep_runs_only_the_trials_that_are_left(
    ray_head: str,
    learning_storage: str,
    text_dataset: Callable[..., DatasetVersion],
    small_model: ModelConfig,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = TuneConfig(num_trials=3, max_steps=6, grace_steps=2, rows_per_step=4, max_concurrent_trials=1)
    dataset = text_dataset()
    with DyingContext(learning_storage, step="tune") as ctx, pytest.raises(ConnectionError, match="trial-0"):
        run(config, small_model, dataset, CHAMPION, ctx)
    with AloneContext(learning_storage, step="tune") as ctx:
        [recorded] = ctx.previous
        result = run(config, small_model, dataset, CHAMPION, ctx)
    assert [trial.name for trial in result.trials] == ["trial-0", "trial-1", "trial-2"]
    assert result.trials[0] == recorded.data.trial
    assert result.trials[0].origin == "champion"
    assert result.trials[0].params == CHAMPION.params
    assert result.trials[0].num_steps == 6
    assert {trial.origin for trial in result.trials[1:]} == {"search"}
    assert result.best.loss == min(t.loss for t in result.trials if t.status == "completed" and t.loss is not None)
    # All is recorded now: nothing is run, not even Ray is asked.
    with AloneContext(learning_storage, step="tune") as ctx, caplog.at_level(logging.INFO):
        assert [each.name for each in ctx.previous] == ["trial-0", "trial-1", "trial-2"]
        assert run(config, small_model, dataset, CHAMPION, ctx) == result
    assert "3 of 3 trials are in the journal already" in caplog.text
    assert capsys.readouterr().out == ""  # Tune prints no banner: a program's last line may be JSON
