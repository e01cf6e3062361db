"""Tests that stay valid at every look: the weighted-odds e-process to roll back, a beta-mixture bound to promote.

A *bad unit* arrives from the canary with probability `R w / (R w + 1 - w)`, where w is the canary's share of the
units and R the ratio of the two rates of bad units. Against every R <= R0 the likelihood ratio of a larger R is a
supermartingale, so by Ville's inequality the mean E over several R reaches 1/alpha with probability at most alpha,
whatever the number of looks and however the weight changes in between ("safe, anytime-valid inference": Ramdas et
al., arXiv 2210.01948; for canaries: Lindon et al., "Rapid Regression Detection in Software Deployments through
Sequential Testing", KDD 2022). Good units bring nothing: only the odds of the bad ones are looked at, so the base
rate needs not be known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
"""Ratios of rates mixed over: from a slight to a total regression."""

DEFAULT_NULL_RATIO = 1.0
"""R0: a canary whose rate of bad units is at most this multiple of the champion's is not to be rolled back. At 1.25
slight regressions are forgiven, but 1 -> 5 % failures are missed in 3 of 100 rollouts once metrics share alpha."""


@dataclass(frozen=True, slots=True)
class WeightedOdds:
    """The e-process: an immutable value that grows by `observe`.

    Attributes:
        log_products: Per ratio in `ODDS`, the logarithm of the likelihood ratio so far.
        null_ratio: R0.
    """

    log_products: tuple[float, ...] = (0.0,) * len(ODDS)
    null_ratio: float = DEFAULT_NULL_RATIO

    def observe(self, weight: float, *, from_canary: bool) -> WeightedOdds:
        """Takes one bad unit in.

        Args:
            weight: Probability, before it was known, that the unit went to the canary. 0 and 1 bring nothing.
            from_canary: Where it did go.
        """
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"weight must lie in [0, 1], got {weight!r}")
        if weight in (0.0, 1.0):
            return self
        odds = np.asarray(ODDS)
        gains = _log_probability(odds, weight, from_canary) - _log_probability(
            np.asarray(self.null_ratio), weight, from_canary
        )
        return WeightedOdds(tuple(np.asarray(self.log_products) + gains), self.null_ratio)

    @property
    def value(self) -> float:
        """E: evidence that the canary's rate of bad units exceeds R0 times the champion's; roll back at 1/alpha."""
        logs = np.asarray(self.log_products)
        top = float(logs.max())
        return float(math.exp(min(top, 700.0)) * np.mean(np.exp(logs - top)))


def _log_probability(ratio: np.ndarray, weight: float, from_canary: bool) -> np.ndarray:
    total = ratio * weight + 1.0 - weight
    return np.log(ratio * weight / total) if from_canary else np.log((1.0 - weight) / total)


def combined(values: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """Combines e-values of several metrics: a weighted mean of e-values is an e-value, whatever their dependence.

    Args:
        values: E-value by metric.
        shares: The part of alpha that each metric gets; they sum to 1.
    """
    return sum(share * values.get(metric, 1.0) for metric, share in shares.items())


def conditional_weight(weight: float, seen_as_champion_at: float) -> float:
    """Gives the probability that a sticky session is on the canary now, given where it was before.

    Sessions are split by a hash u < weight, and the weight only rises: a session that was the champion's at w1 has
    u >= w1, so it is the canary's at w2 with probability (w2 - w1) / (1 - w1).

    Args:
        weight: w2, the weight now.
        seen_as_champion_at: w1, the largest weight at which the session was the champion's; 0 for a new session.
    """
    if seen_as_champion_at >= 1.0:
        return 0.0
    return max(0.0, (weight - seen_as_champion_at) / (1.0 - seen_as_champion_at))


def upper_bound(num_units: int, num_bad: int, alpha: float = 0.05) -> float:
    """Gives an upper bound of a rate that holds at all looks together with probability 1 - alpha.

    The mixture of binomial likelihoods over a uniform prior, divided by the likelihood at p, is a martingale under p
    (Robbins 1970); the bound is the largest p whose martingale stays below 1/alpha.

    Args:
        num_units: Units seen.
        num_bad: Bad ones among them.
        alpha: Probability of ever being wrong.
    """
    if not 0 <= num_bad <= num_units:
        raise ValueError(f"num_bad must lie in [0, num_units], got {num_bad} of {num_units}")
    if num_bad == num_units:
        return 1.0
    num_good = num_units - num_bad
    mixture = math.lgamma(num_bad + 1) + math.lgamma(num_good + 1) - math.lgamma(num_units + 2)
    low, high = num_bad / num_units, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        likelihood = (
            (num_bad * math.log(middle) if num_bad else 0.0) + num_good * math.log1p(-middle)
            if middle < 1
            else -math.inf
        )
        if mixture - likelihood < -math.log(alpha):
            low = middle
        else:
            high = middle
    return high


def units_needed(max_rate: float, num_bad: int = 0, alpha: float = 0.05) -> int:
    """Gives the number of units, `num_bad` of them bad, after which the bound is at most `max_rate`."""
    low, high = num_bad, num_bad + 1
    while upper_bound(high, num_bad, alpha) > max_rate:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(middle, num_bad, alpha) <= max_rate else (middle, high)
    return high
