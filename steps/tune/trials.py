"""Pure decisions of a sweep: which trials are left, which parameters they must try, which was best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steps.common.context import Checkpoint
from steps.common.language_model import Hyperparameters
from steps.common.results import Trial
from steps.tune.config import Range, TuneConfig
from steps.tune.errors import NoFinishedTrialError


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedTrial:
    """A trial as the journal keeps it.

    Attributes:
        number: Counted from 0; trial 0 tries the champion's parameters, or the defaults.
        trial: What came out.
        reports: Steps and validation loss at each rung, in order: what ASHA has to know about it.
    """

    number: int
    trial: Trial
    reports: tuple[tuple[int, float], ...]


def trial_name(number: int) -> str:
    """Name of a trial and of its checkpoint."""
    return f"trial-{number}"


def finished_trials(previous: Sequence[Checkpoint], num_trials: int) -> list[FinishedTrial]:
    """Trials that earlier attempts finished, by number; the first record of a number counts."""
    found: dict[int, FinishedTrial] = {}
    for checkpoint in previous:
        if isinstance(checkpoint.data, FinishedTrial) and checkpoint.data.number < num_trials:
            found.setdefault(checkpoint.data.number, checkpoint.data)
    return [found[number] for number in sorted(found)]


def first_parameters(config: TuneConfig, champion: Mapping[str, float] | None) -> dict[str, float]:
    """What trial 0 tries: the champion's parameters as they are, or the defaults, moved into the ranges."""
    first = Hyperparameters.of(champion or {}).values()
    if champion is None:
        first = {
            name: min(max(value, config.space[name].low), config.space[name].high) for name, value in first.items()
        }
    return first


def search_space(config: TuneConfig, first: Mapping[str, float]) -> dict[str, Range]:
    """The configured ranges, widened where a champion's parameters lie outside."""
    return {name: range_.including(first[name]) for name, range_ in config.space.items()}


def rungs(config: TuneConfig) -> list[int]:
    """Steps after which a trial reports: ASHA's rungs, and the end."""
    steps: list[int] = []
    rung = float(config.grace_steps)
    while rung < config.max_steps:
        steps.append(round(rung))
        rung *= config.reduction_factor
    return sorted({*steps, config.max_steps})


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The lowest loss among those that ran to the end; if none did, among those that were stopped.

    Raises:
        NoFinishedTrialError: No trial has a loss.
    """
    judged = [trial for trial in trials if trial.loss is not None]
    candidates = [trial for trial in judged if trial.status == "completed"] or judged
    if not candidates:
        raise NoFinishedTrialError(len(trials), "every trial diverged or died")
    return min(candidates, key=lambda trial: (trial.loss, trial.name))
