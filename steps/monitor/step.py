"""Monitor: makes the drift reference that watches a champion.

Takes the dataset version and the release; gives the reference, with the run length that it promises and the one that a
replay measured. A re-run is safe: blobs are named by content, and the record that puts a reference in force carries the
step's token. Alone: `python -m steps.monitor --storage URI --inputs dataset.json --inputs release.json`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from steps.common.context import StepContext
from steps.common.embedding import Embedder, TextEmbedder
from steps.common.outcomes import EntryCount, OutcomeReader
from steps.common.results import DatasetVersion, MonitorResult, Release
from steps.monitor.calibration import MIN_PROMPTS, calibrate, limits, measured_run_length
from steps.monitor.config import MonitorConfig
from steps.monitor.detectors import ScalarDetector, embedding_detector
from steps.monitor.monitor_log import MonitorState, Watched, open_monitor_log
from steps.monitor.reference import MEDIA_TYPE, Reference
from steps.monitor.streams import Floats
from steps.monitor.traffic import Prompt, passages, prompts_of_sessions
from workflows.log import Blobs, Draft, Log, Store, failpoint, list_logs

logger = logging.getLogger(__name__)

MAX_RECORDS = 200
"""Outcome records read per writer, the newest: 200 seconds of a busy router, up to 200,000 requests."""

MAX_SESSIONS = 512
"""Sessions that are remembered, so that only their first prompt counts: 6 KB in each record of a scan."""

_EMBED_CHUNK = 64  # prompts between two reports of progress


@dataclass(frozen=True, slots=True)
class Sample:
    """Traffic without drift, or what stands in for it.

    Attributes:
        prompts: Passages of documents first, then sessions in the order of their arrival.
        num_traffic: How many are sessions.
        cursors: Next record of each outcome log: what comes after it is watched.
        sessions: Marks of the newest sessions.
    """

    prompts: Sequence[Prompt]
    num_traffic: int
    cursors: dict[str, int]
    sessions: tuple[str, ...]

    @property
    def num_documents(self) -> int:
        return len(self.prompts) - self.num_traffic


def run(config: MonitorConfig, dataset: DatasetVersion, release: Release, ctx: StepContext) -> MonitorResult:
    """Makes the reference for the champion and puts it in force; keeps one that is in force and no worse."""
    return watch(config, dataset, release, ctx, Embedder(max_tokens=config.max_tokens))


def watch(
    config: MonitorConfig, dataset: DatasetVersion, release: Release, ctx: StepContext, embedder: TextEmbedder
) -> MonitorResult:
    """Does what `run` does, with vectors of any embedder."""
    log = open_monitor_log(ctx.store, release.alias)
    if release.champion is None:
        return _unwatched(release, "there is no champion to watch")
    sample = collect(ctx.store, ctx.blobs, config, dataset, release)
    watched = _kept(log.refresh(), release.champion, sample, ctx.token)
    if watched is not None:
        return _result(release, watched, Reference.from_bytes(ctx.blobs.get(watched.reference)))
    if len(sample.prompts) < MIN_PROMPTS:
        return _unwatched(release, f"{len(sample.prompts)} prompts are too few to watch by, {MIN_PROMPTS} are needed")

    reference = calibrate(config, sample.prompts, _embed(embedder, sample.prompts, ctx))
    made = Watched(
        token=ctx.token,
        champion=release.champion,
        reference=ctx.blobs.put(reference.to_bytes(), MEDIA_TYPE),
        run_id=ctx.run_id,
        run_length=config.run_length,
        measured_run_length=measured_run_length(reference),
        at=ctx.store.now(),
        num_traffic=sample.num_traffic,
        num_documents=sample.num_documents,
        warnings=limits(config, reference, sample.num_traffic, sample.num_documents),
    )
    failpoint("monitor.before-watched")
    ctx.fence()
    data = {"watched": asdict(made), "cursors": sample.cursors, "sessions": list(sample.sessions)}

    def decide(state: MonitorState) -> Draft | None:
        taken = state.watched is not None and state.watched.token == ctx.token
        return None if taken else Draft("watched", data, ctx.epoch)

    log.append(decide)
    for warning in made.warnings:
        logger.warning("%s: %s", release.alias, warning)
    return _result(release, made, reference)


def collect(store: Store, blobs: Blobs, config: MonitorConfig, dataset: DatasetVersion, release: Release) -> Sample:
    """Gathers the newest sessions that the champion has seen, and passages of documents where they are too few."""
    reader = OutcomeReader(store, release.alias, cursors=_recent(store, release.alias))
    own = (outcome for outcome in reader.read() if outcome.version == release.champion)
    sessions = list(prompts_of_sessions(own))[-config.max_reference :]
    num_missing = max(config.min_sessions - len(sessions), 0)
    documents = passages(blobs, dataset, num_wanted=num_missing, num_chars=config.passage_chars) if num_missing else []
    marks = tuple(prompt.group for prompt in sessions[-MAX_SESSIONS:])
    return Sample([*documents, *sessions], len(sessions), dict(reader.cursors), marks)


def _recent(store: Store, alias: str) -> dict[str, int]:
    names = list_logs(store, f"outcomes/{alias}/")
    return {name: max(Log(store, name, EntryCount()).length - MAX_RECORDS, 0) for name in names}


def _kept(state: MonitorState, champion: str, sample: Sample, token: str) -> Watched | None:
    """The reference in force, if this attempt made it before it died, or if a new one would rest on nothing better."""
    watched = state.watched
    if watched is None or watched.champion != champion:
        return None
    better = watched.num_documents > 0 and sample.num_traffic > watched.num_traffic
    return watched if watched.token == token or not better else None


def _embed(embedder: TextEmbedder, prompts: Sequence[Prompt], ctx: StepContext) -> Floats:
    parts: list[Floats] = []
    for start in range(0, len(prompts), _EMBED_CHUNK):
        parts.append(embedder.embed([prompt.text for prompt in prompts[start : start + _EMBED_CHUNK]]))
        ctx.progress(min(start + _EMBED_CHUNK, len(prompts)), len(prompts), "prompts embedded")
    return np.concatenate(parts)


def _unwatched(release: Release, reason: str) -> MonitorResult:
    logger.warning("%s is not watched: %s", release.alias, reason)
    return MonitorResult(
        alias=release.alias,
        champion=release.champion,
        reference=None,
        num_reference=0,
        run_length=0.0,
        measured_run_length=0.0,
        detectors={},
        metrics_url=f"{release.endpoint}/metrics",
        warnings=(reason,),
    )


def _result(release: Release, watched: Watched, reference: Reference) -> MonitorResult:
    thresholds = {
        embedding_detector(reference.config.engine): float(reference.mmd.thresholds[-1]),
        ScalarDetector.name: reference.scalars.threshold,
    }
    return MonitorResult(
        alias=release.alias,
        champion=watched.champion,
        reference=watched.reference,
        num_reference=watched.num_traffic + watched.num_documents,
        run_length=watched.run_length,
        measured_run_length=watched.measured_run_length,
        detectors=thresholds,
        metrics_url=f"{release.endpoint}/metrics",
        num_documents=watched.num_documents,
        warnings=watched.warnings,
    )
