"""The sweep: journal in, trials, journal out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from steps.common.context import StepContext
from steps.common.language_model import Hyperparameters, ModelConfig, prepare_on_worker
from steps.common.releases import ReleasedModel
from steps.common.results import DatasetVersion, Trial, TuningResult
from steps.tune.config import Range, TuneConfig
from steps.tune.errors import NoFinishedTrialError
from steps.tune.trainable import TrialTask, train_trial
from steps.tune.trials import (
    FinishedTrial,
    best_trial,
    finished_trials,
    first_parameters,
    rungs,
    search_space,
    trial_name,
)

logger = logging.getLogger(__name__)


def run(
    config: TuneConfig, model: ModelConfig, dataset: DatasetVersion, champion: ReleasedModel | None, ctx: StepContext
) -> TuningResult:
    """Searches for the best hyperparameters; see the package.

    Raises:
        NoFinishedTrialError: Every trial diverged or died.
        steps.common.language_model.EmptyCorpusError: The dataset has too little text.
    """
    first = first_parameters(config, champion.params if champion else None)
    origin = "champion" if champion else "default"
    finished = finished_trials(ctx.previous, config.num_trials)
    done = {each.number for each in finished}
    pending = [number for number in range(config.num_trials) if number not in done]
    if finished:
        logger.info("%d of %d trials are in the journal already", len(finished), config.num_trials)
    if pending:
        ctx.progress(len(finished), config.num_trials, "making the tokenizer and packing rows")
        corpus = prepare_on_worker(ctx.store, ctx.blobs, dataset, model)
        task = TrialTask(config=config, model=model, corpus=corpus, blobs=ctx.blobs, rungs=tuple(rungs(config)))
        journal = Journal(ctx, config, finished, origin)
        ctx.progress(len(finished), config.num_trials, f"starting workers for {len(pending)} trials")
        sweep(task, search_space(config, first), first, pending, journal, ctx)
        finished = journal.finished
        if not finished:
            raise NoFinishedTrialError(config.num_trials, journal.last_error)
    trials = tuple(each.trial for each in sorted(finished, key=lambda each: each.number))
    return TuningResult(best=best_trial(trials), trials=trials)


class Journal:
    """Records trials as they finish.

    Attributes:
        finished: Trials of earlier attempts and of this one.
        last_error: Why a trial last died.
        broken: What kept the journal from recording, once something has; then the sweep must end.
    """

    def __init__(self, ctx: StepContext, config: TuneConfig, finished: Sequence[FinishedTrial], origin: str) -> None:
        self.finished = list(finished)
        self.last_error = "none"
        self.broken: Exception | None = None
        self._ctx = ctx
        self._config = config
        self._origin = origin
        self._reports: dict[int, list[tuple[int, float]]] = {}

    def began(self, number: int) -> None:
        """A trial has its worker."""
        self._show(f"{trial_name(number)} of {self._config.num_trials} begins", {})

    def report(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reached a rung."""
        reports = self._reports.setdefault(number, [])
        if reports and int(result["steps"]) <= reports[-1][0]:
            reports.clear()  # its worker died, and it started again
        reports.append((int(result["steps"]), float(result["loss"])))
        step = f"step {result['steps']} of {self._config.max_steps}"
        self._show(f"{trial_name(number)} of {self._config.num_trials}: {step}", {"loss": float(result["loss"])})

    def complete(self, params: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """A trial ended, of itself or by ASHA."""
        number = int(params["number"])
        reports = tuple(self._reports.pop(number, ()))
        trial = finished_trial(number, params, result, self._config.max_steps, self._origin)
        record = FinishedTrial(number=number, trial=trial, reports=reports)
        try:
            self._ctx.checkpoint(trial.name, record)
        except Exception as error:  # noqa: BLE001 - Tune would take it for an error of the trial, and run that again
            self.broken = error
            return
        self.finished.append(record)
        self._ctx.progress(len(self.finished), self._config.num_trials, f"{trial.name} {trial.status}")

    def _show(self, message: str, metrics: Mapping[str, float]) -> None:
        total = self._config.num_trials
        under_way = sum(rung[-1][0] for rung in self._reports.values() if rung) / self._config.max_steps
        self._ctx.progress(min(len(self.finished) + under_way, total), total, message, metrics)

    def died(self, number: int, reason: str) -> None:
        """A trial's worker died too often; it is not recorded, so that another attempt tries it again."""
        self._reports.pop(number, None)
        self.last_error = reason
        logger.warning("%s died: %s", trial_name(number), reason)


def finished_trial(
    number: int, params: Mapping[str, Any], result: Mapping[str, Any], max_steps: int, origin: str
) -> Trial:
    """What a trial's last report says about it."""
    num_steps, diverged = int(result["steps"]), bool(result["diverged"])
    return Trial(
        name=trial_name(number),
        params={name: float(params[name]) for name in Hyperparameters.names()},
        loss=None if diverged else float(result["loss"]),
        num_steps=num_steps,
        status="failed" if diverged else "completed" if num_steps >= max_steps else "pruned",
        seconds=float(result.get("time_total_s", 0.0)),
        origin=("champion" if origin == "champion" else "default") if number == 0 else "search",
    )


def sweep(
    task: TrialTask,
    space: Mapping[str, Range],
    first: Mapping[str, float],
    pending: Sequence[int],
    journal: Journal,
    ctx: StepContext,
) -> None:
    """Runs the pending trials with Ray Tune; the journal hears of each report and each end.

    Raises:
        Exception: Whatever kept the journal from recording.
    """
    from ray import tune

    from steps.tune.search import JournaledSearch, make_scheduler

    config = task.config

    class Recorder(tune.Callback):  # type: ignore[misc]  # ray is not followed
        def on_trial_start(self, *_: Any, trial: Any, **__: Any) -> None:
            journal.began(int(trial.config["number"]))

        def on_trial_result(self, *_: Any, trial: Any, result: Any, **__: Any) -> None:
            journal.report(int(trial.config["number"]), result)

        def on_trial_complete(self, *_: Any, trial: Any, **__: Any) -> None:
            journal.complete(trial.config, trial.last_result)

        def on_trial_error(self, *_: Any, trial: Any, **__: Any) -> None:
            journal.died(int(trial.config["number"]), _reason(trial))

    class WhileRecorded(tune.Stopper):  # type: ignore[misc]  # ray is not followed
        def __call__(self, *_: Any) -> bool:
            return journal.broken is not None

        def stop_all(self) -> bool:
            return journal.broken is not None

    search = JournaledSearch(
        space=space,
        first=first,
        pending=pending,
        finished=journal.finished,
        max_steps=config.max_steps,
        seed=config.seed,
    )
    with _quiet_tune():
        tuner = tune.Tuner(
            tune.with_resources(partial(train_trial, task=task), {"CPU": 1, "GPU": config.gpus_per_trial}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=make_scheduler(config, journal.finished),
                num_samples=len(pending),
                max_concurrent_trials=min(config.max_concurrent_trials, len(pending)),
                # A worker takes seconds to import torch; a trial may take no longer than that.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(ctx.scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                callbacks=[Recorder()],
                stop=WhileRecorded(),
            ),
        )
        tuner.fit()
    if journal.broken is not None:
        raise journal.broken


def _reason(trial: Any) -> str:
    text = str(trial.get_error() or "unknown").strip()
    return text.splitlines()[-1] if text else "unknown"


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without log files, banners, tables and a handler for SIGINT, which would swallow a cancellation of the
    step.
    """
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints where results are, whatever `verbose` says
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_WARN_THRESHOLD_S": "60",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
