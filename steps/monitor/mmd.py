"""MMD-online (Cobb, Van Looveren, Klaise, arXiv 2108.00883) in numpy, calibrated twice.

The statistic is the squared maximum mean discrepancy between the reference and the last `window` prompts. Thresholds
have their shape from a bootstrap over the reference; a factor on all of them then makes the run length on held-back
sessions the promised one, because the bootstrap alone misses it by a factor of two for some hundred sessions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from steps.monitor.streams import Floats, Indices, block_length, correction, draw_endless, draw_once, run_length

_TAIL = 10  # bootstrap streams that the highest threshold must rest on
_CONFIRM = 0.95  # quantile of windows without drift that the window after an alarm must exceed
_MAX_STREAMS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class MmdReference:
    """All that the detector knows about traffic without drift.

    Attributes:
        points: Features of the reference, shape [n, d], in the order of their arrival.
        bandwidth: Of the RBF kernel: the median distance of two reference points.
        mean_similarity: Mean kernel value of two different reference points.
        thresholds: For the first, second, ... step after a start; the last one holds from then on. Shape [window].
        confirm: What the statistic of the window after an alarm must exceed.
        factor: The correction that is in `thresholds` already.
        block: Sessions that were kept together in the simulations.
        nominal: Run length on held-back sessions before the correction.
        measured: The same after it, on other simulated streams.
        num_alarms: Alarms behind `measured`; with none it is a lower bound.
    """

    points: Floats
    bandwidth: float
    mean_similarity: float
    thresholds: NDArray[np.float64]
    confirm: float
    factor: float
    block: int
    nominal: float
    measured: float
    num_alarms: int

    @property
    def window(self) -> int:
        return len(self.thresholds)


def rbf(left: Floats, right: Floats, bandwidth: float) -> Floats:
    """Gives exp(-|x - y|^2 / (2 bandwidth^2)) for all pairs, shape [len(left), len(right)]."""
    squared = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * (left @ right.T)
    kernel: Floats = np.exp(np.maximum(squared, 0) / np.float32(-2 * bandwidth**2))
    return kernel


def calibrate(
    reference: Floats,
    held_back: Floats,
    *,
    target: float,
    window: int,
    num_bootstraps: int,
    rng: np.random.Generator,
    num_runs: int = 400,
) -> MmdReference:
    """Fits the detector to traffic without drift.

    Args:
        reference: Features, shape [n, d], n >= 2 * window + 1, in the order of their arrival.
        held_back: Features of other sessions, at least `window + 1`.
        target: Promised mean number of sessions between false alarms.
        window: Sessions in the sliding window.
        num_bootstraps: Simulated streams behind the shape of the thresholds.
        rng: Source of chance.
        num_runs: Length of the replay, in promised run lengths; its relative error is 1 / sqrt(num_runs).
    """
    bandwidth = _median_distance(reference)
    kernel = rbf(reference, reference, bandwidth)
    n = len(reference)
    block = block_length(kernel, max_length=window)
    streams = draw_once(rng, n, num_streams=num_bootstraps, length=2 * window - 1, block=block)
    statistics = _bootstrap(kernel, streams, window)
    fitted = MmdReference(
        points=reference,
        bandwidth=bandwidth,
        mean_similarity=float((kernel.sum() - n) / (n * (n - 1))),
        thresholds=_thresholds(statistics, max(1 / target, _TAIL / num_bootstraps)),
        confirm=float(np.quantile(statistics[:, -1], _CONFIRM)),
        factor=1.0,
        block=block,
        nominal=0.0,
        measured=0.0,
        num_alarms=0,
    )
    return _correct(fitted, held_back, target, num_runs, rng)


def _median_distance(points: Floats) -> float:
    some = points[:: -(-len(points) // 500)]
    squared = (some**2).sum(1)[:, None] + (some**2).sum(1)[None] - 2 * (some @ some.T)
    distances = np.sqrt(np.maximum(squared[np.triu_indices(len(some), 1)], 0))
    return max(float(np.median(distances)), 1e-6)


def _bootstrap(kernel: Floats, streams: Indices, window: int) -> NDArray[np.float64]:
    """Statistics of `window` overlapping windows of each stream against all other points, [streams, window]."""
    n, length = len(kernel), streams.shape[1]
    off_diagonal = kernel.sum(1, dtype=np.float64) - 1
    total = float(off_diagonal.sum())
    rest = n - length
    statistics = np.empty((len(streams), window))
    for start in range(0, len(streams), 512):  # bounds the memory of the gathered kernels
        part = streams[start : start + 512]
        inner = kernel[part[:, :, None], part[:, None, :]].astype(np.float64)
        inner[:, np.arange(length), np.arange(length)] = 0
        within = inner.sum(2)
        to_stream = off_diagonal[part]
        to_rest = to_stream - within
        reference_term = (total - 2 * to_stream.sum(1) + within.sum(1)) / (rest * (rest - 1))
        for first in range(window):
            last = first + window
            pairs = inner[:, first:last, first:last].sum((1, 2)) / (window * (window - 1))
            cross = to_rest[:, first:last].sum(1) / (rest * window)
            statistics[start : start + len(part), first] = reference_term + pairs - 2 * cross
    return statistics


def _thresholds(statistics: NDArray[np.float64], hazard: float) -> NDArray[np.float64]:
    """The paper's sequential quantiles: at each step, of the streams that were never over a threshold before."""
    alive = np.ones(len(statistics), np.bool_)
    thresholds = np.empty(statistics.shape[1])
    for step in range(statistics.shape[1]):
        thresholds[step] = np.quantile(statistics[alive, step], 1 - hazard)
        alive &= statistics[:, step] <= thresholds[step]
    # The estimate is unbiased, so it may be below 0 in tiny references; a factor needs something to scale.
    return np.maximum(thresholds, 1e-4)


def _correct(
    fitted: MmdReference, held_back: Floats, target: float, num_runs: int, rng: np.random.Generator
) -> MmdReference:
    ratios = _replay(fitted, held_back, target, num_runs, rng)
    factor = correction(lambda tried: run_length(ratios > tried)[0], target)
    measured, num_alarms = run_length(_replay(fitted, held_back, target, num_runs, rng) > factor)
    return replace(
        fitted,
        thresholds=fitted.thresholds * factor,
        factor=factor,
        nominal=run_length(ratios > 1)[0],
        measured=measured,
        num_alarms=num_alarms,
    )


def _replay(
    fitted: MmdReference, held_back: Floats, target: float, num_runs: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Statistic over threshold along streams of held-back sessions, each from a start; shape [streams, steps]."""
    window, points = fitted.window, np.concatenate([held_back, fitted.points])
    num_held = len(held_back)
    length = int(min(max(target, 4 * window), 20 * window))
    if num_held >= 4 * window:
        length = min(length, num_held)  # then no session need be drawn twice, which is cheaper
    num_streams = int(np.clip(num_runs * target / length, 50, _MAX_STREAMS))
    draw = draw_once if num_held >= length else partial(draw_endless, window=window)
    stream = draw(rng, num_held, num_streams=num_streams, length=length, block=fitted.block)
    first = num_held + draw_once(rng, len(fitted.points), num_streams=num_streams, length=window, block=1)
    path = np.concatenate([first, stream], axis=1)
    kernel = rbf(points, points, fitted.bandwidth)
    to_reference = rbf(points, fitted.points, fitted.bandwidth).mean(1, dtype=np.float64)
    rows = path[:, :window]
    pairs = kernel[rows[:, :, None], rows[:, None, :]].sum((1, 2), dtype=np.float64) - window
    cross = to_reference[rows].sum(1)
    ratios = np.empty((num_streams, length))
    for step in range(length):
        leaves, enters, stays = path[:, step], path[:, step + window], path[:, step + 1 : step + window]
        pairs += 2 * (kernel[enters[:, None], stays].sum(1) - kernel[leaves[:, None], stays].sum(1))
        cross += to_reference[enters] - to_reference[leaves]
        statistic = fitted.mean_similarity + pairs / (window * (window - 1)) - 2 * cross / window
        ratios[:, step] = statistic / fitted.thresholds[min(step, window - 1)]
    return ratios


@dataclass(slots=True)
class MmdWindow:
    """The detector at work: constant in size, whatever it has seen.

    Attributes:
        reference: What it was fitted to.
        points: The window, oldest first, shape [window, d].
        similarity: Mean kernel value of each point of the window to the reference.
        num_seen: Prompts since the start.
    """

    reference: MmdReference
    points: Floats
    similarity: NDArray[np.float64]
    num_seen: int = 0

    @classmethod
    def start(cls, reference: MmdReference, seed: int) -> MmdWindow:
        """Starts with a window of reference points, which the first prompts push out."""
        chosen = np.random.default_rng(seed).permutation(len(reference.points))[: reference.window]
        points = reference.points[chosen].copy()
        return cls(reference, points, _to_reference(reference, points))

    def add(self, point: Floats) -> float:
        """Takes one prompt's features, shape [d]; returns the statistic."""
        self.points = np.concatenate([self.points[1:], point[None]])
        self.similarity = np.append(self.similarity[1:], _to_reference(self.reference, point[None]))
        self.num_seen += 1
        window = self.reference.window
        pairs = float(rbf(self.points, self.points, self.reference.bandwidth).sum(dtype=np.float64)) - window
        cross = float(self.similarity.mean())
        return self.reference.mean_similarity + pairs / (window * (window - 1)) - 2 * cross

    def threshold(self) -> float:
        """Gives the threshold for the statistic that `add` returned last."""
        return float(self.reference.thresholds[min(self.num_seen, self.reference.window) - 1])


def _to_reference(reference: MmdReference, points: Floats) -> NDArray[np.float64]:
    similarity: NDArray[np.float64] = rbf(points, reference.points, reference.bandwidth).mean(1, dtype=np.float64)
    return similarity
