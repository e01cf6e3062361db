"""Training from the coordinator's side: resume, watch, register."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from steps.common.context import StepContext
from steps.common.language_model import Corpus, Hyperparameters, ModelConfig, prepare_on_worker
from steps.common.results import DatasetVersion, ModelVersion, TuningResult
from steps.common.tracking import Point, Tracking, tracking_server
from steps.train.config import TrainConfig
from steps.train.errors import UnfinishedError
from steps.train.state import CurvePoint, TrainedModel, WorkFolder, newest
from steps.train.worker import TrainTask, train_on_worker
from workflows.log import LogError

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5


def run(
    config: TrainConfig, model: ModelConfig, dataset: DatasetVersion, tuning: TuningResult, ctx: StepContext
) -> ModelVersion:
    """Trains and registers a model; see the package.

    Raises:
        DivergedError: The loss left the numbers.
        UnfinishedError: Ray Train ended without a model.
        steps.common.language_model.EmptyCorpusError: The dataset has too little text.
    """
    params = Hyperparameters.of(tuning.best.params)
    identity = training_identity(config, model, dataset, params)
    with ThreadPoolExecutor(1, thread_name_prefix="tracking") as background:
        # Opening a new SQLite file takes MLflow seconds; the workers take longer to start.
        ctx.fence()
        opening = background.submit(_open_run, config, dataset, ctx)
        ctx.progress(0, config.num_steps, "making the tokenizer and packing rows")
        corpus = prepare_on_worker(ctx.store, ctx.blobs, dataset, model)
        trained = recorded_model(ctx, identity)
        if trained is None:
            trained = train(config, model, corpus, params, identity, ctx)
            ctx.checkpoint("trained", trained)
        tracking, mlflow_run_id = opening.result()
    ctx.fence()
    ctx.progress(config.num_steps, config.num_steps, "registering the model")
    version = register(tracking, mlflow_run_id, config, model, dataset, params, corpus, trained, ctx)
    curve = trained.state.curve
    return ModelVersion(
        name=config.model_name,
        version=version,
        model=trained.model,
        dataset=str(dataset),
        dataset_digest=dataset.digest,
        params=params.values(),
        num_parameters=trained.num_parameters,
        num_tokens=trained.state.num_tokens,
        num_steps=trained.state.step,
        train_loss=smoothed_loss(curve),
        heldout_loss=trained.heldout_loss,
        unigram_loss=corpus.unigram_loss,
        loss_curve=ctx.blobs.put(curve_json(curve), "application/json"),
        mlflow_run_id=mlflow_run_id,
        seconds=trained.state.seconds,
    )


def training_identity(config: TrainConfig, model: ModelConfig, dataset: DatasetVersion, params: Hyperparameters) -> str:
    """Digest of everything that decides the weights, but for the number of workers, which may change on resume."""
    decisive = config.model_dump(include={"num_steps", "rows_per_step", "seed", "sabotage"})
    parts = [decisive, model.digest, dataset.digest, params.values()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def recorded_model(ctx: StepContext, identity: str) -> TrainedModel | None:
    """The model that an earlier attempt finished before it could register it."""
    for checkpoint in reversed(ctx.previous):
        if isinstance(checkpoint.data, TrainedModel) and checkpoint.data.identity == identity:
            return checkpoint.data
    return None


def smoothed_loss(curve: tuple[CurvePoint, ...]) -> float:
    """Mean of the last tenth of the curve, nats per token."""
    last = curve[-max(1, len(curve) // 10) :]
    return sum(point.loss for point in last) / len(last)


def curve_json(curve: tuple[CurvePoint, ...]) -> bytes:
    """The loss curve as the report reads it."""
    points = [{"step": p.step, "tokens": p.tokens, "loss": p.loss, "lr": p.lr} for p in curve]
    return json.dumps(points).encode()


def train(
    config: TrainConfig,
    model: ModelConfig,
    corpus: Corpus,
    params: Hyperparameters,
    identity: str,
    ctx: StepContext,
) -> TrainedModel:
    """Runs the workers until the model is trained, recording each state that they name."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    folder = WorkFolder(ctx.store, ctx.blobs, f"runs/{ctx.run_id}/steps/{ctx.step_id}/{ctx.attempt:04}/train")
    resume = newest((checkpoint.data for checkpoint in ctx.previous), identity)
    if resume is not None:
        logger.info("training goes on from step %d of %d", resume.step, config.num_steps)
    task = TrainTask(
        config=config,
        model=model,
        corpus=corpus,
        params=params,
        identity=identity,
        resume=resume,
        folder=folder,
    )
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config=task,
        torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
            if config.gpus_per_worker
            else {"CPU": config.cpus_per_worker},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(ctx.scratch / "ray"),
            failure_config=FailureConfig(max_failures=config.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    ctx.progress(resume.step if resume else 0, config.num_steps, f"starting {config.num_workers} workers")
    with watching(folder, config.num_steps, ctx), _own_sigint():
        trainer.fit()
    result = folder.result()
    if result is None:
        raise UnfinishedError(folder.prefix)
    return result


@contextmanager
def watching(folder: WorkFolder, num_steps: int, ctx: StepContext) -> Iterator[None]:
    """Records states and shows progress in a thread, as the workers name them; what is left, at the end."""
    watcher = _Watcher(folder, num_steps, ctx)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_INTERVAL_S):
            try:
                watcher.look()
            except LogError as error:
                logger.warning("training cannot be watched: %s", error)

    thread = threading.Thread(target=watch, name="watch-training", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    watcher.look()


class _Watcher:
    def __init__(self, folder: WorkFolder, num_steps: int, ctx: StepContext) -> None:
        self._folder = folder
        self._num_steps = num_steps
        self._ctx = ctx
        self._last_key = ""
        self._shown: Any = None

    def look(self) -> None:
        for key, state in self._folder.states(after=self._last_key):
            self._ctx.checkpoint(f"step-{state.step}", state)
            self._last_key = key
        shown = self._folder.progress()
        if shown is not None and shown != self._shown:
            self._shown = shown
            step, loss, tokens_per_s = shown
            message = f"step {step} of {self._num_steps}"
            self._ctx.progress(step, self._num_steps, message, {"loss": loss, "tokens/s": tokens_per_s})


@contextmanager
def _own_sigint() -> Iterator[None]:
    """Puts the process's handler of SIGINT back: Ray Train leaves its own, and the process serves other steps later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _open_run(config: TrainConfig, dataset: DatasetVersion, ctx: StepContext) -> tuple[Tracking, str]:
    server = tracking_server(config.tracking_uri, ctx.store.uri)
    logger.info("MLflow at %s (%s)", server.uri, server.reason)
    tracking = Tracking(server)
    tags = {"everloop.run_id": ctx.run_id, "everloop.dataset": str(dataset), "everloop.dataset_digest": dataset.digest}
    return tracking, tracking.open_run(config.experiment, ctx.token, name=f"{ctx.run_id}/{ctx.step_id}", tags=tags)


def register(
    tracking: Tracking,
    mlflow_run_id: str,
    config: TrainConfig,
    model: ModelConfig,
    dataset: DatasetVersion,
    params: Hyperparameters,
    corpus: Corpus,
    trained: TrainedModel,
    ctx: StepContext,
) -> str:
    """Tells MLflow everything about a trained model; gives its version in the registry."""
    curve = trained.state.curve
    points = [Point(p.step, p.at, {"train_loss": p.loss, "learning_rate": p.lr, "tokens": p.tokens}) for p in curve]
    final = {"heldout_loss": trained.heldout_loss, "unigram_loss": corpus.unigram_loss}
    tracking.log_params(mlflow_run_id, {**params.values(), **_flat("train", config), **_flat("model", model)})
    tracking.log_points(mlflow_run_id, [*points, Point(trained.state.step, curve[-1].at, final)])
    version = tracking.register(
        config.model_name,
        mlflow_run_id,
        ctx.token,
        digest=trained.model.sha256,
        tags={
            "everloop.run_id": ctx.run_id,
            "everloop.step": ctx.step_id,
            "everloop.dataset": str(dataset),
            "everloop.dataset_digest": dataset.digest,
            "everloop.storage": ctx.store.uri,
            "everloop.sabotage": config.sabotage,
        },
        description=f"Trained on {dataset} for {trained.state.step} steps.",
    )
    tracking.finish(mlflow_run_id)
    return version


def _flat(section: str, config: TrainConfig | ModelConfig) -> dict[str, Any]:
    return {f"{section}.{name}": value for name, value in config.model_dump().items()}
