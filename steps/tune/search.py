"""Optuna and ASHA, told about the trials that earlier attempts finished.

Written against the public `Searcher` and `TrialScheduler` interfaces rather than Ray's `OptunaSearch`, which can take
evaluated points or points to evaluate, not both, and tells Optuna that a trial which ASHA stopped is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from steps.tune.config import Range, TuneConfig
from steps.tune.trials import FinishedTrial

METRIC, TIME = "loss", "steps"
"""Names in the reports; steps never start again from 1, as Tune's own `training_iteration` may (warprec#126)."""


class JournaledSearch(Searcher):  # type: ignore[misc]  # ray is not followed
    """Proposes parameters for the trials that are not finished.

    Each proposal is drawn by a sampler seeded with the trial's number: with one trial at a time, a sweep that was
    interrupted proposes what it would have proposed without the interruption.

    Args:
        space: Range of each parameter.
        first: Parameters of trial 0.
        pending: Numbers of the trials to run, in order.
        finished: Trials to learn from.
        max_steps: Steps of a complete trial.
        seed: Of the proposals.
    """

    def __init__(
        self,
        *,
        space: Mapping[str, Range],
        first: Mapping[str, float],
        pending: Sequence[int],
        finished: Sequence[FinishedTrial],
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(metric=METRIC, mode="min")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {
            name: optuna.distributions.FloatDistribution(range_.low, range_.high, log=range_.log)
            for name, range_ in space.items()
        }
        self._first = dict(first)
        self._pending = list(pending)
        self._max_steps = max_steps
        self._seed = seed
        # Random proposals until there is something to learn from; a third of a small sweep, ten of a large one.
        self._num_random = min(10, max(2, (len(pending) + len(finished)) // 3))
        self._study = optuna.create_study(direction="minimize")
        self._asked: dict[str, optuna.Trial] = {}
        for each in finished:
            self._study.add_trial(self._frozen(each))

    def suggest(self, trial_id: str) -> Any:
        """Parameters for a new trial, and its `number`; or `FINISHED`."""
        if not self._pending:
            return Searcher.FINISHED
        number = self._pending.pop(0)
        self._study.sampler = optuna.samplers.TPESampler(
            seed=self._seed * 1_000_003 + number, n_startup_trials=self._num_random
        )
        if number == 0:
            self._study.enqueue_trial(self._first)
        trial = self._asked[trial_id] = self._study.ask(self._distributions)
        return {**trial.params, "number": number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passes on a report."""
        if trial_id in self._asked and TIME in result:
            self._asked[trial_id].report(result[METRIC], result[TIME])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells how a trial ended: complete, pruned by ASHA, or failed."""
        trial = self._asked.pop(trial_id, None)
        if trial is None:
            return
        states = optuna.trial.TrialState
        if error or not result or TIME not in result or result.get("diverged"):
            self._study.tell(trial, state=states.FAIL)
        elif result[TIME] < self._max_steps:
            self._study.tell(trial, state=states.PRUNED)
        else:
            self._study.tell(trial, result[METRIC])

    def save(self, checkpoint_path: str) -> None:
        """Keeps nothing: the journal is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing: a new attempt makes a new search from the journal."""

    def _frozen(self, finished: FinishedTrial) -> optuna.trial.FrozenTrial:
        states = optuna.trial.TrialState
        state = {"completed": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[finished.trial.status]
        return optuna.trial.create_trial(
            state=state,
            value=finished.trial.loss if state is states.COMPLETE else None,
            params=dict(finished.trial.params),
            distributions=self._distributions,
            intermediate_values=dict(finished.reports),
        )


def make_scheduler(config: TuneConfig, finished: Sequence[FinishedTrial]) -> ASHAScheduler:
    """ASHA (Li et al. 2018) whose rungs know the trials of earlier attempts."""
    scheduler = ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="min",
        max_t=config.max_steps,
        grace_period=config.grace_steps,
        reduction_factor=config.reduction_factor,
    )
    for each in finished:
        # ASHA asks a trial for nothing but its id, and no controller is asked anything.
        trial = SimpleNamespace(trial_id=each.trial.name)
        results = [{TIME: steps, METRIC: loss} for steps, loss in each.reports]
        scheduler.on_trial_add(None, trial)
        for result in results:
            scheduler.on_trial_result(None, trial, result)
        if results:
            scheduler.on_trial_complete(None, trial, results[-1])
    return scheduler
