"""Fits the detectors of a reference, and says honestly what the promise rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from steps.common.embedding import EMBEDDING_MODEL
from steps.monitor import mmd, scalars, traffic
from steps.monitor.config import MonitorConfig
from steps.monitor.detectors import NUM_DETECTORS
from steps.monitor.reference import Projection, Reference
from steps.monitor.streams import Floats
from steps.monitor.traffic import Prompt

MIN_PROMPTS = 15
"""Below that neither a window nor anything held back is left."""

_SPLIT_SESSIONS = 10  # neighbours that stay on one side when sessions are held back
_FEW = 200  # sessions from which a single split into reference and held-back is trusted
_NUM_SPLITS = 6  # splits tried below that; the most careful one is kept
_NUM_RUNS = 400  # length of the replay in promised run lengths
_NUM_RUNS_FEW = 100  # the same with few sessions, whose own chance is larger than the replay's
_TOLERANCE = (0.8, 1.25)  # measured over promised run length that counts as kept


def calibrate(config: MonitorConfig, prompts: Sequence[Prompt], vectors: Floats) -> Reference:
    """Fits projection and detectors.

    With few sessions, the most careful of several splits is kept: rather a late alarm than a false one.

    Args:
        config: Settings.
        prompts: At least `MIN_PROMPTS`.
        vectors: Their embeddings, shape [n, 384].
    """
    rng = np.random.default_rng(config.seed)
    names = traffic.scalar_names(prompts)
    values = traffic.scalars(prompts, names)
    num_splits = 1 if len(prompts) >= _FEW else _NUM_SPLITS
    fits = []
    for _ in range(num_splits):
        held = _held_back(prompts, rng)
        fits.append((_fit(config, held, names, values, vectors, rng), held))
    careful, held = max(fits, key=lambda fit: fit[0].mmd.factor)
    return careful if config.engine == "numpy" else _by_alibi(careful, careful.projection(vectors[held]))


def _held_back(prompts: Sequence[Prompt], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Chooses a third to hold back; a document's passages and neighbouring sessions stay on one side."""
    units: dict[str, int] = {}
    unit_of = np.empty(len(prompts), np.int64)
    num_sessions = 0
    for index, prompt in enumerate(prompts):
        name = prompt.group
        if prompt.num_answer_tokens is not None:
            name = f"sessions-{num_sessions // _SPLIT_SESSIONS}"
            num_sessions += 1
        unit_of[index] = units.setdefault(name, len(units))
    sizes = np.bincount(unit_of)
    order = rng.permutation(len(units))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = order[before < len(prompts) / 3]
    held: NDArray[np.bool_] = np.isin(unit_of, chosen)
    return held


def _fit(
    config: MonitorConfig,
    held: NDArray[np.bool_],
    names: tuple[str, ...],
    values: Floats,
    vectors: Floats,
    rng: np.random.Generator,
) -> Reference:
    projection = Projection.fit(vectors[~held], config.num_components)
    features = projection(vectors)
    num_kept, num_held = int((~held).sum()), int(held.sum())
    window = min(config.window, (num_kept - 1) // 2, num_held // 2)
    target = float(NUM_DETECTORS * config.run_length)
    return Reference(
        config=config,
        embedding_model=EMBEDDING_MODEL,
        projection=projection,
        mmd=mmd.calibrate(
            features[~held],
            features[held],
            target=target,
            window=window,
            num_bootstraps=config.num_bootstraps,
            rng=rng,
            num_runs=_NUM_RUNS if len(vectors) >= _FEW else _NUM_RUNS_FEW,
        ),
        scalars=scalars.calibrate(names, values[~held], values[held], target=target, window=window, rng=rng),
    )


def _by_alibi(reference: Reference, held_back: Floats) -> Reference:
    """Takes thresholds and measured run length from alibi-detect, whose thresholds nothing corrects."""
    from steps.monitor.alibi import AlibiDetector

    config, fitted = reference.config, reference.mmd
    run_length = float(NUM_DETECTORS * config.run_length)
    detector = AlibiDetector.fit(fitted.points, config, run_length=run_length, window=fitted.window)
    try:
        measured = detector.replay(held_back, run_length, config.seed)
    finally:
        detector.close()
    thresholds = np.full(fitted.window, detector.threshold())
    changed = replace(
        fitted, thresholds=thresholds, confirm=detector.confirm, factor=1.0, nominal=measured, measured=measured
    )
    return replace(reference, mmd=changed)


def measured_run_length(reference: Reference) -> float:
    """Gives the measured run length of the detectors together: their hazards add up."""
    return 1 / (1 / reference.mmd.measured + 1 / reference.scalars.measured)


def limits(config: MonitorConfig, reference: Reference, num_traffic: int, num_documents: int) -> tuple[str, ...]:
    """Says what limits the promise, for people; nothing if it can be relied on."""
    found = []
    total = num_traffic + num_documents
    if num_documents:
        found.append(
            f"{num_documents} of {total} prompts of the reference are passages of documents: traffic that is unlike "
            "them will alarm, and scalars of answers are not watched"
        )
    if total < _FEW:
        found.append(
            f"{total} prompts are few: the run length of {config.run_length} is a rough promise, on the careful side"
        )
    if reference.mmd.window < config.window:
        found.append(f"the window is {reference.mmd.window} prompts, not {config.window}: the reference is too small")
    ratio = measured_run_length(reference) / config.run_length
    if not _TOLERANCE[0] <= ratio <= _TOLERANCE[1]:
        found.append(f"the replay measured {ratio:.2f} of the promised run length")
    return tuple(found)
