"""The loop, in the order in which it happens. The only file that joins the steps and the engine.

Each function here is a step of the engine around a step of the loop: how often it is retried, what it holds of the
machine, what it changes outside. `build` ties them together. The canary is a loop of looks with a wait in between, each
look a step of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from steps import deploy as deploying
from steps import evaluate as evaluation_step
from steps import monitor as monitoring
from steps import scrape as scraping
from steps import train as training
from steps import tune as tuning_step
from steps import validate as validation_step
from steps import version as versioning
from steps.common.context import StepContext
from steps.common.releases import ReleasedModel, open_release_log, released_aliases
from steps.common.results import (
    CrawlResult,
    DatasetVersion,
    Evaluation,
    ModelVersion,
    MonitorResult,
    Release,
    TuningResult,
    ValidationResult,
)
from workflows.configs import PipelineConfig
from workflows.engine import Approval, Resources, Retry, Timeouts, approval, sleep, step
from workflows.engine.head import connect as connect_head
from workflows.engine.head import state_folder
from workflows.log import StoreUnavailable, open_store

APPROVAL = "release"

TRANSIENT = Retry(attempts=3, base_s=2.0, retryable=(StoreUnavailable, ConnectionError, TimeoutError))
"""Storage and network may come back; everything else a step says is final until a person resumes the run."""

COORDINATOR = Resources(coordinator=True)


def build(config: PipelineConfig) -> Any:
    """The graph of one round."""
    crawl = scrape.bind(config.scrape, config.version.name)
    validation = validate.bind(config.validate_, crawl)
    dataset = version.bind(config.version, crawl, validation)
    tuning = tune.bind(config, dataset)
    model = train.bind(config, dataset, tuning)
    evaluation = evaluate.bind(config, dataset, model)
    agreed = (
        approval(APPROVAL, subject=evaluation, expires_s=config.approval.expires_s)
        if config.approval.required
        else None
    )
    release = deploy.bind(config.deploy, dataset, model, evaluation, agreed)
    return monitor.bind(config.monitor, dataset, release)


@step(
    retries=TRANSIENT,
    resources=COORDINATOR,
    timeouts=Timeouts(attempt_s=24 * 3600),
    effects="asks web servers for pages; extends the frontier log",
)
def scrape(config: scraping.ScrapeConfig, consumer: str, ctx: StepContext) -> CrawlResult:
    """Crawls the sources; only documents that are new or changed, or that the dataset has not confirmed, go on."""
    return scraping.run(config, ctx, consumer=consumer)


@step(retries=TRANSIENT, resources=COORDINATOR, effects="none outside the run")
def validate(config: validation_step.ValidateConfig, crawl: CrawlResult, ctx: StepContext) -> ValidationResult:
    """Cleans and checks; rejects are kept with the reason."""
    return validation_step.run(config, crawl, ctx)


@step(
    retries=TRANSIENT,
    resources=COORDINATOR,
    effects="may add a version to the dataset's log; tells the frontier log what need not be delivered again",
)
def version(
    config: versioning.VersionConfig, crawl: CrawlResult, validation: ValidationResult, ctx: StepContext
) -> DatasetVersion:
    """Commits the rows as an immutable dataset version; then the crawl need not deliver them again."""
    committed = versioning.run(config, validation, ctx)
    scraping.confirm(crawl, config.name, ctx)
    return committed


@step(retries=TRANSIENT, resources=COORDINATOR, effects="none outside the run")
def tune(config: PipelineConfig, dataset: DatasetVersion, ctx: StepContext) -> TuningResult:
    """Searches hyperparameters; the champion's are always tried."""
    return tuning_step.run(config.tune, config.model, dataset, _champion(config, ctx), ctx)


@step(retries=TRANSIENT, resources=COORDINATOR, effects="makes an MLflow run and registers a model version")
def train(config: PipelineConfig, dataset: DatasetVersion, tuning: TuningResult, ctx: StepContext) -> ModelVersion:
    """Trains the challenger from the best trial."""
    return training.run(config.train, config.model, dataset, tuning, ctx)


@step(retries=TRANSIENT, resources=Resources(num_cpus=1), effects="none outside the run")
def evaluate(config: PipelineConfig, dataset: DatasetVersion, challenger: ModelVersion, ctx: StepContext) -> Evaluation:
    """Weighs the challenger against the champion."""
    return evaluation_step.run(config.evaluate, dataset, challenger, _champion(config, ctx), ctx)


@step(
    retries=TRANSIENT,
    resources=COORDINATOR,
    effects="opens a rollout in the release log; starts applications in Ray Serve",
)
def deploy(
    config: deploying.DeployConfig,
    dataset: DatasetVersion,
    model: ModelVersion,
    evaluation: Evaluation,
    agreed: Approval | None,
    ctx: StepContext,
) -> Any:
    """Opens the rollout; goes on as a canary until it is decided."""
    if agreed is not None and not agreed.approved:
        why = f"{agreed.outcome} by {agreed.by}: {agreed.reason}" if agreed.by else f"approval {agreed.outcome}"
        evaluation = replace(evaluation, verdict="reject", reasons=(why, *evaluation.reasons))
    approved_by = (agreed.by,) if agreed is not None and agreed.approved else ()
    rollout = deploying.begin(config, model, evaluation, ctx, approved_by)
    return _next(config, rollout, dataset, ctx)


@step(
    retries=TRANSIENT,
    resources=COORDINATOR,
    effects="changes the canary's weight, promotes or rolls back in the release log",
)
def canary(
    config: deploying.DeployConfig, rollout: deploying.RolloutRef, dataset: DatasetVersion, ctx: StepContext
) -> Any:
    """Looks once at what the canary did, and decides."""
    return _next(config, deploying.look(config, rollout, dataset, ctx), dataset, ctx)


@step(retries=TRANSIENT, resources=Resources(num_cpus=1), effects="fits the drift reference that watches the champion")
def monitor(
    config: monitoring.MonitorConfig, dataset: DatasetVersion, release: Release, ctx: StepContext
) -> MonitorResult:
    """Calibrates the drift detectors on the champion's own traffic."""
    return monitoring.run(config, dataset, release, ctx)


def _next(
    config: deploying.DeployConfig, rollout: deploying.RolloutRef, dataset: DatasetVersion, ctx: StepContext
) -> Any:
    if rollout.done:
        return deploying.finish(config, rollout, ctx)
    return canary.bind(config, sleep(rollout.wait_s, after=rollout), dataset)


def _champion(config: PipelineConfig, ctx: StepContext) -> ReleasedModel | None:
    return open_release_log(ctx.store, config.deploy.alias).refresh().champion


def connect(storage: str) -> None:
    """Connects to Ray, and has the endpoints of the storage brought back meanwhile if the head had lost them."""
    import ray

    connect_head(state_folder(storage))
    aliases = released_aliases(open_store(storage))
    if aliases:
        ray.remote(num_cpus=0, max_retries=0)(converge_all).remote(storage, aliases)


def converge_all(storage: str, aliases: list[str]) -> None:
    """Makes Ray Serve look as the release logs say."""
    for alias in aliases:
        deploying.converge(storage, alias)
