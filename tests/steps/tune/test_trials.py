from __future__ import annotations

import pickle
from typing import Any

import pytest

from steps.common.context import Checkpoint
from steps.common.language_model import Hyperparameters
from steps.common.results import Trial
from steps.tune import Range, TuneConfig
from steps.tune.errors import NoFinishedTrialError
from steps.tune.trainable import split_rows
from steps.tune.trials import FinishedTrial, best_trial, finished_trials, first_parameters, rungs


def trial(number: int, loss: float | None, status: Any = "completed") -> Trial:
    return Trial(name=f"trial-{number}", params={}, loss=loss, num_steps=1, status=status, seconds=0.0, origin="search")


def finished(number: int, loss: float | None = 1.0) -> FinishedTrial:
    return FinishedTrial(number=number, trial=trial(number, loss), reports=())


def test_the_best_ran_to_the_end() -> None:
    trials = [trial(0, 2.0), trial(1, 1.0, "pruned"), trial(2, None, "failed"), trial(3, 1.5)]
    assert best_trial(trials).name == "trial-3"
    assert best_trial(trials[1:3]).name == "trial-1"
    with pytest.raises(NoFinishedTrialError, match="none of 1 trials"):
        best_trial(trials[2:3])


def test_the_first_record_of_a_trial_counts() -> None:
    previous = [
        Checkpoint(1, "trial-1", finished(1, 5.0)),
        Checkpoint(1, "note", {"anything": 1}),
        Checkpoint(2, "trial-1", finished(1, 6.0)),
        Checkpoint(2, "trial-0", finished(0)),
        Checkpoint(2, "trial-9", finished(9)),
    ]
    assert finished_trials(previous, num_trials=4) == [finished(0), finished(1, 5.0)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 40, "grace_steps": 5, "reduction_factor": 2}, [5, 10, 20, 40]),
        ({"max_steps": 30, "grace_steps": 5, "reduction_factor": 3}, [5, 15, 30]),
        ({"max_steps": 5, "grace_steps": 5, "reduction_factor": 2}, [5]),
        ({"max_steps": 1, "grace_steps": 1, "reduction_factor": 4}, [1]),
    ],
)
def test_trials_report_at_the_rungs_and_at_the_end(settings: dict[str, Any], expected: list[int]) -> None:
    assert rungs(TuneConfig(**settings)) == expected


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 17, 400])
def test_rows_to_judge_on_are_not_learned_from(num_rows: int) -> None:
    learned, judged = split_rows(num_rows, 32, seed=1)
    assert len(learned)
    assert len(judged)
    if num_rows > 3:
        assert len(judged) == min(32, num_rows // 4)
        assert sorted([*learned, *judged]) == list(range(num_rows))


def test_without_a_champion_the_defaults_are_tried_as_far_as_the_ranges_go() -> None:
    assert first_parameters(TuneConfig(), None) == Hyperparameters().values()
    narrow = TuneConfig(learning_rate=Range(low=0.015, high=0.03))
    assert first_parameters(narrow, None)["learning_rate"] == 0.015
    # A champion's parameters are tried as they are.
    assert first_parameters(narrow, {"learning_rate": 0.5})["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grace_steps": 9, "max_steps": 8}, "grace_steps=9 must not be above max_steps=8"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "low=0.1 must not be above high=0.01"),
        ({"learning_rate": {"low": 0.0, "high": 0.01, "log": True}}, "must be above 0"),
        ({"trials": 3}, "trials"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneConfig(**settings)


def test_ranges_are_values() -> None:
    assert Range(low=1.0, high=1.0).including(1.0) == Range(low=1.0, high=1.0)


def test_errors_travel() -> None:
    error = NoFinishedTrialError(3, "worker died")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.num_trials, copy.reason, str(copy)) == (3, "worker died", str(error))
