"""The parts of a report, one for each result that a run has so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steps.common.results import (
    CrawlResult,
    DatasetVersion,
    Evaluation,
    Interval,
    ModelVersion,
    MonitorResult,
    Release,
    TuningResult,
    ValidationResult,
)
from workflows.report import charts


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, a sentence, pictures, a table of facts, and samples of text."""

    title: str
    lead: str = ""
    pictures: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    samples: tuple[tuple[str, str], ...] = field(default=())


def crawl(result: CrawlResult) -> Section:
    """Pages by fate."""
    fates = {"new or changed": result.num_changed, "unchanged": result.num_unchanged, "gone": len(result.removed)}
    return Section(
        title="Crawl",
        lead=f"{result.num_fetched:,} pages asked for, {result.num_bytes / 2**20:.1f} MiB, {result.seconds:.1f} s.",
        pictures=(charts.bars({**fates, **result.rejected}),),
        facts=(("source", result.source),),
    )


def cleaning(result: ValidationResult) -> Section:
    """Documents by fate, with the rule that rejected them."""
    return Section(
        title="Cleaning",
        lead=f"{result.num_accepted:,} of {result.num_in:,} documents accepted.",
        pictures=(charts.bars({"accepted": result.num_accepted, **result.rejected}),),
        facts=tuple((f"{kind} masked", f"{count:,}") for kind, count in result.masked.items()),
    )


def dataset(result: DatasetVersion) -> Section:
    """The version and its difference to its parent."""
    return Section(
        title=f"Dataset {result}",
        facts=(
            ("digest", result.digest),
            ("training documents", f"{result.num_train:,}"),
            ("held-out documents", f"{result.num_heldout:,}"),
            ("size", f"{result.num_bytes / 2**20:.2f} MiB in {len(result.files)} files"),
            ("against its parent", f"+{result.num_added:,} ~{result.num_changed:,} -{result.num_removed:,}"),
        ),
    )


def tuning(result: TuningResult) -> Section:
    """All trials, the best one named with its values."""
    return Section(
        title="Tuning",
        lead=f"Best: {result.best.name} with "
        + ", ".join(f"{name} = {value:.4g}" for name, value in result.best.params.items()),
        pictures=(
            charts.trials([(trial.name, trial.loss, trial.status) for trial in result.trials], result.best.name),
        ),
    )


def training(result: ModelVersion, curve: Sequence[Mapping[str, float]]) -> Section:
    """The loss curve against the unigram baseline."""
    return Section(
        title=f"Model {result.name} v{result.version}",
        lead=f"{result.num_parameters / 1e6:.2f} M weights, {result.num_tokens:,} tokens in "
        f"{result.num_steps:,} steps; {result.seconds:.0f} s.",
        pictures=(charts.curve(curve, result.unigram_loss, result.heldout_loss),),
        facts=(
            ("trained on", f"{result.dataset} ({result.dataset_digest[:12]})"),
            (
                "held-out loss",
                f"{result.heldout_loss:.4f} nats per token (perplexity {math.exp(result.heldout_loss):.1f})",
            ),
            (
                "unigram baseline",
                f"{result.unigram_loss:.4f} nats per token (perplexity {math.exp(result.unigram_loss):.1f})",
            ),
            ("weights", f"{result.model.sha256[:12]}, {result.model.size / 2**20:.1f} MiB"),
            ("MLflow run", result.mlflow_run_id),
        ),
    )


def evaluation(result: Evaluation) -> Section:
    """Champion against challenger, with the interval and what both wrote."""
    champion = (
        "no champion yet" if result.champion is None else f"{result.champion} ({_number(result.champion_perplexity)})"
    )
    return Section(
        title=f"Evaluation: {result.verdict}",
        lead=" ".join(result.reasons),
        pictures=() if result.loss_difference is None else (charts.interval(result.loss_difference),),
        facts=(
            ("challenger (perplexity)", f"{result.challenger} ({result.perplexity:.2f})"),
            ("champion (perplexity)", champion),
            ("difference, nats per byte", _interval(result.loss_difference)),
            ("documents compared", f"{result.num_documents:,}"),
        ),
        samples=result.samples,
    )


def release(result: Release, looks: Sequence[Mapping[str, float]], log10_limit: float) -> Section:
    """How the rollout went, with the evidence over its looks."""
    return Section(
        title=f"Release: {result.state.replace('_', ' ')}",
        lead=" ".join(result.reasons),
        pictures=(charts.evidence(looks, log10_limit),) if looks else (),
        facts=(
            ("answers now", result.champion or "nothing"),
            ("rolled out", result.challenger or "nothing"),
            ("endpoint", result.endpoint),
            (
                "outcomes judged",
                ", ".join(f"{variant}: {count:,}" for variant, count in result.num_requests.items()) or "none",
            ),
            ("canary traffic", "replayed held-out prompts and real requests" if result.replayed else "real requests"),
        ),
    )


def monitoring(result: MonitorResult) -> Section:
    """The drift reference and its promise."""
    return Section(
        title="Drift reference",
        lead=f"One false alarm in {result.run_length:,.0f} prompts promised, "
        f"{result.measured_run_length:,.0f} measured on held-back traffic.",
        facts=(
            ("reference", f"{result.num_reference:,} prompts"),
            *((f"threshold of {name}", f"{value:.4g}") for name, value in result.detectors.items()),
            ("metrics", result.metrics_url),
        ),
    )


def _interval(value: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{value.estimate:+.4f} [{value.low:+.4f}, {value.high:+.4f}] at {value.confidence:.0%}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.2f}"
