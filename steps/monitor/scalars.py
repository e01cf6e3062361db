"""Kolmogorov-Smirnov tests on scalars of prompts and answers, a whole window at a time, with Holm's correction.

The p-values name which scalar moved; the threshold on the smallest of them comes from replayed windows, not from
theory, because counts and flags are full of ties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steps.monitor.streams import Floats, block_length, draw_endless, draw_once

_NUM_WINDOWS = 4000  # simulated windows behind the threshold
_CONFIRM = 0.95  # quantile of windows without drift that the window after an alarm must exceed
_SMALLEST_P = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarReference:
    """All that the detector knows about traffic without drift.

    Attributes:
        names: The scalars.
        values: Sorted values of each scalar, shape [n, len(names)].
        window: Sessions in a window.
        threshold: What -log10 of the smallest adjusted p-value must exceed.
        confirm: What it must exceed in the window after an alarm.
        nominal: Run length in sessions that the p-value of theory would have had on held-back sessions.
        measured: Run length with `threshold`, on other simulated windows.
        num_alarms: Alarms behind `measured`; with none it is a lower bound.
    """

    names: tuple[str, ...]
    values: Floats
    window: int
    threshold: float
    confirm: float
    nominal: float
    measured: float
    num_alarms: int


def calibrate(
    names: tuple[str, ...],
    reference: Floats,
    held_back: Floats,
    *,
    target: float,
    window: int,
    rng: np.random.Generator,
) -> ScalarReference:
    """Fits the detector to traffic without drift.

    Args:
        names: The scalars.
        reference: Their values, shape [n, len(names)], in the order of arrival.
        held_back: Values of other sessions, at least `window + 1`.
        target: Promised mean number of sessions between false alarms.
        window: Sessions in a window.
        rng: Source of chance.
    """
    ordered = np.sort(reference, axis=0)
    block = block_length(_similarity(reference), max_length=window)

    def simulate() -> NDArray[np.float64]:
        if len(held_back) >= 2 * window:
            drawn = draw_once(rng, len(held_back), num_streams=_NUM_WINDOWS, length=window, block=block)
        else:
            drawn = draw_endless(
                rng,
                len(held_back),
                num_streams=_NUM_WINDOWS,
                length=window,
                block=1,
                window=min(window, len(held_back) - 1),
            )
        return statistic(p_values(ordered, held_back[drawn]))

    first, second = simulate(), simulate()
    rate = min(window / target, 0.5)
    threshold = float(np.quantile(first, 1 - rate, method="higher"))
    num_alarms = int((second > threshold).sum())
    num_nominal = int((second > -np.log10(rate)).sum())
    return ScalarReference(
        names=names,
        values=ordered,
        window=window,
        threshold=threshold,
        confirm=float(np.quantile(first, _CONFIRM)),
        nominal=_NUM_WINDOWS * window / max(num_nominal, 1),
        measured=_NUM_WINDOWS * window / max(num_alarms, 1),
        num_alarms=num_alarms,
    )


def _similarity(values: Floats) -> Floats:
    scaled = (values - values.mean(0)) / np.maximum(values.std(0), 1e-6)
    squared = ((scaled[:, None] - scaled[None]) ** 2).mean(2)
    kernel: Floats = np.exp(-squared / 2).astype(np.float32)
    return kernel


def p_values(ordered: Floats, windows: Floats) -> NDArray[np.float64]:
    """Two-sample Kolmogorov-Smirnov p-values: the limiting distribution with Stephens' (1970) correction.

    Args:
        ordered: Reference values, each column sorted, shape [n, k].
        windows: Shape [..., window, k].

    Returns:
        Shape [..., k].
    """
    n, num_scalars = ordered.shape
    size = windows.shape[-2]
    values = np.sort(windows, axis=-2)
    distances = np.empty((*windows.shape[:-2], num_scalars))
    for column in range(num_scalars):
        mine, reference = values[..., column], ordered[:, column]
        # With ties the distance is reached just before or just after a value of the window.
        above = np.arange(1, size + 1) / size - np.searchsorted(reference, mine, side="right") / n
        below = np.searchsorted(reference, mine, side="left") / n - np.arange(size) / size
        distances[..., column] = np.maximum(_at_last_tie(above, mine), _at_first_tie(below, mine)).max(-1)
    effective = float(np.sqrt(n * size / (n + size)))
    scaled: NDArray[np.float64] = (effective + 0.12 + 0.11 / effective) * np.maximum(distances, 0)
    return _kolmogorov(scaled)


def _at_last_tie(above: NDArray[np.float64], ordered: Floats) -> NDArray[np.float64]:
    tied = np.zeros(above.shape, np.bool_)
    tied[..., :-1] = ordered[..., 1:] == ordered[..., :-1]
    return np.where(tied, -1.0, above)


def _at_first_tie(below: NDArray[np.float64], ordered: Floats) -> NDArray[np.float64]:
    tied = np.zeros(below.shape, np.bool_)
    tied[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return np.where(tied, -1.0, below)


def _kolmogorov(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    terms = np.arange(1, 41)
    series = 2 * ((-1.0) ** (terms - 1) * np.exp(-2 * np.multiply.outer(scaled**2, terms**2))).sum(-1)
    p: NDArray[np.float64] = np.clip(np.where(scaled < 0.2, 1.0, series), _SMALLEST_P, 1.0)
    return p


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusts p-values for their number (Holm 1979), along the last axis."""
    count = p.shape[-1]
    order = np.argsort(p, axis=-1)
    stepped = np.take_along_axis(p, order, -1) * np.arange(count, 0, -1)
    stepped = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    adjusted: NDArray[np.float64] = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


def statistic(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gives -log10 of the smallest adjusted p-value."""
    result: NDArray[np.float64] = -np.log10(np.maximum(holm(p).min(-1), _SMALLEST_P))
    return result


@dataclass(slots=True)
class ScalarWindow:
    """The detector at work: at most one window of values.

    Attributes:
        reference: What it was fitted to.
        values: Values since the last full window, shape [m, k] with m < window.
        moved: Adjusted p-values of the last full window, by scalar.
    """

    reference: ScalarReference
    values: Floats
    moved: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, reference: ScalarReference) -> ScalarWindow:
        return cls(reference, np.empty((0, len(reference.names)), np.float32))

    def add(self, scalars: Floats) -> float | None:
        """Takes one prompt's scalars, shape [k]; returns the statistic when a window is full, else None."""
        self.values = np.concatenate([self.values, scalars[None]])
        if len(self.values) < self.reference.window:
            return None
        p = p_values(self.reference.values, self.values)
        self.moved = dict(zip(self.reference.names, map(float, holm(p)), strict=True))
        self.values = self.values[:0]
        return float(statistic(p))
