"""The comparison: score in batches, look at answers, decide."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from steps.common.bootstrap import bootstrap_mean
from steps.common.context import StepContext
from steps.common.dataset import read_table
from steps.common.releases import ReleasedModel
from steps.common.results import DatasetVersion, Evaluation, Interval, ModelVersion
from steps.evaluate.config import EvaluateConfig
from steps.evaluate.errors import UnfitChampionError
from steps.evaluate.scorer import Scorer
from steps.evaluate.verdict import Measured, decide
from workflows.log import TreeRef

logger = logging.getLogger(__name__)

DOCUMENT_PROMPT_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchScores:
    """Scores of a batch of documents, all in the same order.

    Attributes:
        models: Digests of the models, challenger first: scores of other models are no scores of these.
        doc_ids: The documents.
        num_bytes: Bytes of each.
        num_tokens: Tokens of each by the challenger's tokenizer.
        challenger: Loss of each, nats.
        champion: The champion's, nats; empty without one.
    """

    models: tuple[str, ...]
    doc_ids: tuple[str, ...]
    num_bytes: tuple[int, ...]
    num_tokens: tuple[int, ...]
    challenger: tuple[float, ...]
    champion: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers of the challenger and what is wrong with each, or None."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    faults: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A held-out document."""

    doc_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Examined:
    """What the models showed; `damage` says why the challenger could not be loaded."""

    damage: str | None
    batches: tuple[BatchScores, ...]
    answers: Answers


def run(
    config: EvaluateConfig,
    dataset: DatasetVersion,
    challenger: ModelVersion,
    champion: ReleasedModel | None,
    ctx: StepContext,
) -> Evaluation:
    """Compares a challenger with the champion; see the package.

    Raises:
        UnfitChampionError: The champion cannot be loaded, so there is nothing to compare with.
    """
    documents = held_out(config, dataset, ctx)
    examined = examine(config, documents, challenger, champion, ctx)
    batches = examined.batches
    nats, num_tokens = total(batches, "challenger"), sum(sum(batch.num_tokens) for batch in batches)
    measured = Measured(
        damage=examined.damage,
        is_finite=math.isfinite(nats),
        faults=examined.answers.faults,
        num_documents=sum(len(batch.doc_ids) for batch in batches),
        loss=nats / num_tokens if num_tokens else math.inf,
        unigram_loss=challenger.unigram_loss,
        difference=paired_difference(batches, config) if champion else None,
    )
    verdict, reasons = decide(measured, config)
    return Evaluation(
        verdict=verdict,
        reasons=reasons,
        challenger=challenger.version,
        champion=champion.version if champion else None,
        perplexity=perplexity(nats, num_tokens),
        champion_perplexity=perplexity(total(batches, "champion"), num_tokens) if champion else None,
        loss_difference=measured.difference,
        num_documents=measured.num_documents,
        scores=ctx.blobs.put(scores_json(batches), "application/json"),
        samples=tuple(zip(examined.answers.prompts, examined.answers.texts, strict=True)),
    )


def held_out(config: EvaluateConfig, dataset: DatasetVersion, ctx: StepContext) -> list[Document]:
    """Held-out documents in order of their ids, which are hashes: the first ones are a random sample."""
    table = read_table(ctx.blobs, dataset, "heldout", ["doc_id", "text"]).slice(0, config.max_documents)
    rows = zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True)
    return [Document(doc_id, text[: config.max_document_chars]) for doc_id, text in rows]


def examine(
    config: EvaluateConfig,
    documents: Sequence[Document],
    challenger: ModelVersion,
    champion: ReleasedModel | None,
    ctx: StepContext,
) -> Examined:
    """Scores all documents and looks at answers; what earlier attempts did is not done again."""
    trees = (challenger.model, *([champion.model] if champion else []))
    models = tuple(tree.sha256 for tree in trees)
    wanted = [
        documents[at : at + config.documents_per_batch] for at in range(0, len(documents), config.documents_per_batch)
    ]
    known = [each.data for each in ctx.previous]
    scores = {batch.doc_ids: batch for batch in known if isinstance(batch, BatchScores) and batch.models == models}
    answers = next((each for each in known if isinstance(each, Answers) and each.models == models), None)
    missing = [(n, batch) for n, batch in enumerate(wanted) if tuple(d.doc_id for d in batch) not in scores]
    if missing or answers is None:
        ctx.progress(len(wanted) - len(missing), len(wanted), "loading models")
        with scorers(config, trees, ctx) as actors:
            damage = load_all(actors, challenger, champion)
            if damage is not None:
                return Examined(damage, (), Answers(models=models, prompts=(), texts=(), faults=()))
            for batch in score(missing, len(wanted), models, actors, ctx):
                scores[batch.doc_ids] = batch
            if answers is None:
                answers = look(config, documents, models, actors[0], ctx)
    in_order = tuple(scores[tuple(d.doc_id for d in batch)] for batch in wanted)
    return Examined(None, in_order, answers)


def score(
    missing: Sequence[tuple[int, Sequence[Document]]],
    num_batches: int,
    models: tuple[str, ...],
    actors: Sequence[Any],
    ctx: StepContext,
) -> Iterator[BatchScores]:
    """Scores batches, recording each; the models work side by side."""
    import ray

    pending = [[actor.score.remote([d.text for d in batch]) for actor in actors] for _, batch in missing]
    done = num_batches - len(missing)
    for (number, batch), refs in zip(missing, pending, strict=True):
        (challenger, num_tokens), *champions = ray.get(refs)
        scores = BatchScores(
            models=models,
            doc_ids=tuple(d.doc_id for d in batch),
            num_bytes=tuple(len(d.text.encode()) for d in batch),
            num_tokens=tuple(num_tokens),
            challenger=tuple(challenger),
            champion=tuple(champions[0][0]) if champions else (),
        )
        ctx.checkpoint(f"scores-{number}", scores)
        done += 1
        ctx.progress(done, num_batches, "scoring")
        yield scores


def look(
    config: EvaluateConfig, documents: Sequence[Document], models: tuple[str, ...], actor: Any, ctx: StepContext
) -> Answers:
    """Has the challenger go on with some beginnings, and records what it said."""
    import ray

    beginnings = [d.text[:DOCUMENT_PROMPT_CHARS] for d in documents[: config.num_document_prompts]]
    prompts = [*config.prompts, *beginnings]
    said = ray.get(
        actor.answer.remote(
            prompts,
            num_tokens=config.sample_tokens,
            temperature=config.temperature,
            max_repetition=config.max_repetition,
            seed=config.seed,
        )
    )
    answers = Answers(
        models=models,
        prompts=tuple(prompts),
        texts=tuple(text for text, _ in said),
        faults=tuple(wrong for _, wrong in said),
    )
    ctx.checkpoint("answers", answers)
    return answers


def total(batches: Sequence[BatchScores], who: Literal["challenger", "champion"]) -> float:
    """Nats that all documents cost a model."""
    return float(sum(sum(getattr(batch, who)) for batch in batches))


def paired_difference(batches: Sequence[BatchScores], config: EvaluateConfig) -> Interval | None:
    """Challenger minus champion, mean over documents of nats per byte; None if that cannot be computed.

    Per byte, because models with different tokenizers have different tokens.
    """
    num_bytes = np.array([count for batch in batches for count in batch.num_bytes], np.float64)
    challenger = np.array([loss for batch in batches for loss in batch.challenger], np.float64)
    champion = np.array([loss for batch in batches for loss in batch.champion], np.float64)
    if len(num_bytes) < 2 or not np.isfinite(challenger).all():
        return None
    differences = (challenger - champion) / np.maximum(1.0, num_bytes)
    return bootstrap_mean(
        differences, confidence=config.confidence, num_resamples=config.num_resamples, seed=config.seed
    )


def perplexity(nats: float, num_tokens: int) -> float:
    """Per token of the challenger's tokenizer, also for the champion, so that the two compare (Mielke 2019)."""
    mean = nats / num_tokens if num_tokens else math.inf
    return math.exp(mean) if mean < 700 else math.inf  # exp(709) is the largest that a float holds


def scores_json(batches: Sequence[BatchScores]) -> bytes:
    """Scores per document, as `Evaluation.scores` describes them."""
    rows = [
        {
            "doc_id": doc_id,
            "num_bytes": batch.num_bytes[n],
            "challenger": batch.challenger[n],
            "champion": batch.champion[n] if batch.champion else None,
        }
        for batch in batches
        for n, doc_id in enumerate(batch.doc_ids)
    ]
    return json.dumps(rows).encode()


@contextmanager
def scorers(config: EvaluateConfig, trees: Sequence[TreeRef], ctx: StepContext) -> Iterator[list[Any]]:
    """An actor for each model, with a CPU of its own; gone at the end."""
    import ray

    # Scores and answers are pure, so Ray may repeat them when a worker dies.
    remote = ray.remote(num_cpus=1, max_restarts=2, max_task_retries=2)(Scorer)
    actors = [remote.remote(ctx.blobs, tree, config.rows_per_microbatch) for tree in trees]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def load_all(actors: Sequence[Any], challenger: ModelVersion, champion: ReleasedModel | None) -> str | None:
    """Loads the models side by side; gives what is wrong with the challenger.

    Raises:
        UnfitChampionError: Something is wrong with the champion.
    """
    import ray

    damages: list[str | None] = ray.get([actor.load.remote() for actor in actors])
    if champion is not None and damages[1] is not None:
        raise UnfitChampionError(champion.version, damages[1])
    if damages[0] is not None:
        logger.warning("challenger %s cannot be loaded: %s", challenger.version, damages[0])
    return damages[0]
