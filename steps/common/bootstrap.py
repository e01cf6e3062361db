"""Confidence intervals of a mean by resampling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit  # type: ignore[import-untyped]  # Student's quantile

from steps.common.results import Interval

_CELLS_AT_ONCE = 2_000_000


def bootstrap_mean(
    values: npt.NDArray[np.float64], *, confidence: float, num_resamples: int = 4000, seed: int = 0
) -> Interval:
    """Interval of the mean of independent values: the outer ends of the studentized bootstrap's and of Student's.

    Neither holds its confidence alone. The bootstrap-t (Efron and Tibshirani 1993, section 12.5) bears skew, but is too
    narrow for symmetric heavy tails: at 95 % and 40 values it missed 8 to 11 % of the means. Student's bears those, but
    misses 12 % of the means of 12 exponential values. Measured for both together, at 95 % and with 12 to 100 values of
    eight distributions: 1 to 5 % missed on the worse side, but 6 % for 12 lognormal values. For pairs, pass the
    differences.

    Args:
        values: Shape (n,), at least two, finite.
        confidence: Between 0 and 1, for example 0.95.
        num_resamples: Samples drawn with replacement.
        seed: Of the draws; equal inputs give the equal interval.

    Raises:
        ValueError: Fewer than two values, values that are not finite, or a confidence outside (0, 1).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError("values must be at least two finite numbers")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    num_values, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1)) / np.sqrt(num_values)
    # Equal values say nothing about their spread but that there is none; rounding must not be taken for spread.
    if error <= 1e-12 * max(1.0, abs(mean)):
        return Interval(estimate=mean, low=mean, high=mean, confidence=confidence)
    generator = np.random.default_rng(seed)
    parts = []
    rows = max(1, _CELLS_AT_ONCE // num_values)
    for start in range(0, num_resamples, rows):
        drawn = values[generator.integers(0, num_values, (min(rows, num_resamples - start), num_values))]
        errors = drawn.std(axis=1, ddof=1) / np.sqrt(num_values)
        # A sample of one value again and again has no spread; it is as far out as its mean says, but not infinitely.
        parts.append((drawn.mean(axis=1) - mean) / np.maximum(errors, error / np.sqrt(num_values)))
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    student = float(stdtrit(num_values - 1, 1 - tail))
    return Interval(
        estimate=mean,
        low=mean - max(float(upper), student) * error,
        high=mean - min(float(lower), -student) * error,
        confidence=confidence,
    )
