"""Simulated streams to calibrate detectors on, drawn from real sessions in blocks: what hangs together stays together.

The moving-block bootstrap of Kuensch (1989): the length of the blocks follows from how far the similarity of neighbours
reaches. With one prompt a session it is 1, unless one cause brings several sessions in a row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

_EXCESS = 0.05  # similarity of neighbours above that of strangers, as a share of the largest possible


def block_length(kernel: Floats, *, max_length: int) -> int:
    """Gives the number of sessions after which neighbours are no more alike than strangers.

    Args:
        kernel: Similarities of sessions in the order of their arrival, shape [n, n], ones on the diagonal.
        max_length: Longest block.

    Returns:
        1 if sessions are independent of their neighbours.
    """
    n = len(kernel)
    strangers = float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
    for lag in range(1, max_length):
        neighbours = float(np.diagonal(kernel, lag).mean())
        noise = 3 * float(np.diagonal(kernel, lag).std()) / np.sqrt(max(n - lag, 1))
        if neighbours - strangers <= max(_EXCESS * (1 - strangers), noise):
            return lag
    return max_length


def draw_once(rng: np.random.Generator, pool: int, *, num_streams: int, length: int, block: int) -> Indices:
    """Draws streams in which no session appears twice.

    Args:
        rng: Source of chance.
        pool: Sessions to draw from, in the order of their arrival.
        num_streams: Streams.
        length: Sessions in each; at most `pool`.
        block: Sessions that stay together.

    Returns:
        Indices into the pool, shape [num_streams, length].
    """
    block = min(block, pool)
    num_blocks = pool // block
    if num_blocks * block < length:
        block, num_blocks = 1, pool
    # A random start keeps the borders of the blocks from always falling between the same sessions.
    start = rng.integers(0, pool - num_blocks * block + 1, size=(num_streams, 1))
    order = np.argsort(rng.random((num_streams, num_blocks)), axis=1)[:, : -(-length // block)]
    members = order[:, :, None] * block + np.arange(block)
    drawn: Indices = members.reshape(num_streams, -1)[:, :length] + start
    return drawn


def draw_endless(
    rng: np.random.Generator, pool: int, *, num_streams: int, length: int, block: int, window: int
) -> Indices:
    """Draws streams longer than the pool; within a window no session appears twice, as in life.

    Returns:
        Indices into the pool, shape [num_streams, length].
    """
    block = max(1, min(block, pool // (2 * window)))
    num_blocks = pool // block
    recent = min(-(-window // block), num_blocks - 1)
    num_draws = -(-length // block)
    drawn = np.full((num_streams, num_draws + recent), -1, np.int64)
    for position in range(recent, num_draws + recent):
        near = drawn[:, position - recent : position]
        fresh = rng.integers(0, num_blocks, size=num_streams)
        while (taken := (near == fresh[:, None]).any(axis=1)).any():
            fresh[taken] = rng.integers(0, num_blocks, size=int(taken.sum()))
        drawn[:, position] = fresh
    members = drawn[:, recent:, None] * block + np.arange(block)
    stream: Indices = members.reshape(num_streams, -1)[:, :length]
    return stream


def run_length(alarms: NDArray[np.bool_]) -> tuple[float, int]:
    """Estimates the mean run length from streams that were watched from their start to their first alarm or their end.

    Steps watched over alarms seen: the maximum-likelihood estimate for censored times of a constant hazard, which a
    sliding window has once it is full.

    Args:
        alarms: Whether each step of each stream is over the threshold, shape [num_streams, length].

    Returns:
        Steps per alarm, and the number of alarms. Without an alarm the steps watched: a lower bound.
    """
    length = alarms.shape[1]
    fired = alarms.any(axis=1)
    first = np.where(fired, alarms.argmax(axis=1) + 1, length)
    num_alarms = int(fired.sum())
    return float(first.sum() / max(num_alarms, 1)), num_alarms


def correction(measure: Callable[[float], float], wanted: float, *, low: float = 0.25, high: float = 8.0) -> float:
    """Finds the factor on the thresholds at which the run length is the wanted one, by bisection.

    Args:
        measure: Run length at a factor; grows with it.
        wanted: The promised run length.
        low: Smallest factor.
        high: Largest factor.
    """
    for _ in range(24):
        middle = float(np.sqrt(low * high))
        if measure(middle) < wanted:
            low = middle
        else:
            high = middle
    return high
