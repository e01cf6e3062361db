"""Proposals and early stops, without Ray running: the same classes that Ray Tune drives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from steps.common.language_model import Hyperparameters
from steps.common.results import Trial
from steps.tune import Range, TuneConfig
from steps.tune.search import METRIC, TIME, JournaledSearch, make_scheduler
from steps.tune.sweep import finished_trial
from steps.tune.trials import FinishedTrial, first_parameters, rungs, search_space

CONFIG = TuneConfig(num_trials=14, max_steps=40, grace_steps=5, seed=3)
FIRST = first_parameters(CONFIG, None)


def loss_after(params: dict[str, Any], steps: int) -> float:
    """A landscape with its best place at a learning rate of 0.004, approached with the steps."""
    return float(abs(params["learning_rate"] - 0.004) * 100 + params["warmup_ratio"] + 10 / steps)


def drive(config: TuneConfig, finished: list[FinishedTrial], until: int | None = None) -> list[FinishedTrial]:
    """What Ray Tune does with one trial at a time."""
    done = {each.number for each in finished}
    pending = [n for n in range(config.num_trials) if n not in done]
    search = JournaledSearch(
        space=search_space(config, FIRST),
        first=FIRST,
        pending=pending,
        finished=finished,
        max_steps=config.max_steps,
        seed=config.seed,
    )
    scheduler: Any = make_scheduler(config, finished)
    journal = list(finished)
    for number in pending[:until]:
        trial = SimpleNamespace(trial_id=f"id-{number}")
        scheduler.on_trial_add(None, trial)
        params = search.suggest(trial.trial_id)
        assert params["number"] == number
        reports, result = [], {}
        for steps in rungs(config):
            result = {TIME: steps, METRIC: loss_after(params, steps), "diverged": False}
            reports.append((steps, result[METRIC]))
            decision = scheduler.on_trial_result(None, trial, result)
            search.on_trial_result(trial.trial_id, result)
            if decision == "STOP":
                break
        search.on_trial_complete(trial.trial_id, result)
        scheduler.on_trial_complete(None, trial, result)
        outcome = finished_trial(number, params, result, config.max_steps, "default")
        journal.append(FinishedTrial(number=number, trial=outcome, reports=tuple(reports)))
    if until is None:
        assert search.suggest("one too many") == JournaledSearch.FINISHED
    return journal


@pytest.fixture(scope="module")
def uninterrupted() -> list[FinishedTrial]:
    return drive(CONFIG, [])


def test_asha_stops_some_trials_and_lets_some_finish(uninterrupted: list[FinishedTrial]) -> None:
    assert {each.trial.status for each in uninterrupted} == {"completed", "pruned"}
    assert uninterrupted[0].trial.params == FIRST


@pytest.mark.parametrize("killed_after", range(CONFIG.num_trials + 1))
def test_a_sweep_killed_anywhere_decides_as_if_it_had_not_been(
    uninterrupted: list[FinishedTrial], killed_after: int
) -> None:
    journal = drive(CONFIG, [], until=killed_after)
    assert len(journal) == killed_after
    assert drive(CONFIG, journal) == uninterrupted


def test_a_lost_trial_is_tried_again_under_its_number(uninterrupted: list[FinishedTrial]) -> None:
    journal = drive(CONFIG, [each for each in uninterrupted if each.number not in (0, 5)])
    assert sorted(each.number for each in journal) == list(range(CONFIG.num_trials))
    assert next(each for each in journal if each.number == 0).trial.params == FIRST


def test_finished_trials_teach_the_search() -> None:
    space = {name: range_.model_copy(update={"low": range_.low}) for name, range_ in CONFIG.space.items()}
    taught = []
    for best in (0.0015, 0.008):
        finished = []
        for number in range(30):
            rate = 1e-3 * 10 ** (number / 29)
            params = {"learning_rate": rate, "warmup_ratio": 0.1, "weight_decay": 0.1}
            trial = Trial(
                name=f"trial-{number}",
                params=params,
                loss=abs(rate - best) * 1000,
                num_steps=40,
                status="completed",
                seconds=1.0,
                origin="search",
            )
            finished.append(FinishedTrial(number=number, trial=trial, reports=((40, trial.loss or 0.0),)))
        search = JournaledSearch(
            space=space, first=FIRST, pending=range(30, 40), finished=finished, max_steps=40, seed=0
        )
        rates = sorted(search.suggest(str(n))["learning_rate"] for n in range(10))
        taught.append(rates[5])
    assert taught[0] < 0.003 < 0.006 < taught[1]


def test_failed_and_pruned_trials_are_told_as_such() -> None:
    search = JournaledSearch(
        space=search_space(CONFIG, FIRST), first=FIRST, pending=range(4), finished=[], max_steps=40, seed=0
    )
    for trial_id in "abcd":
        search.suggest(trial_id)
    search.on_trial_complete("a", {TIME: 40, METRIC: 1.0, "diverged": False})
    search.on_trial_result("b", {TIME: 5, METRIC: 3.0})
    search.on_trial_complete("b", {TIME: 5, METRIC: 3.0, "diverged": False})
    search.on_trial_complete("c", {TIME: 5, METRIC: 1e6, "diverged": True})
    search.on_trial_complete("d", error=True)
    assert [trial.state.name for trial in search._study.trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert search._study.trials[1].intermediate_values == {5: 3.0}


def test_a_champion_outside_the_space_is_tried_all_the_same() -> None:
    champion = {"learning_rate": 0.5, "warmup_ratio": 0.0, "weight_decay": 1e-4, "forgotten": 7.0}
    first = first_parameters(CONFIG, champion)
    search = JournaledSearch(
        space=search_space(CONFIG, first), first=first, pending=[0], finished=[], max_steps=40, seed=0
    )
    proposed = search.suggest("a")
    assert (
        {name: proposed[name] for name in Hyperparameters.names()}
        == first
        == {
            "learning_rate": 0.5,
            "warmup_ratio": 0.0,
            "weight_decay": 1e-4,
        }
    )
    assert Range(low=1.0, high=2.0).including(3.0) == Range(low=1.0, high=3.0)
