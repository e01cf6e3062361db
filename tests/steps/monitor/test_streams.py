"""Simulated streams keep together what hangs together, and repeat nothing within a window."""

from __future__ import annotations

import numpy as np
import pytest

from steps.monitor.mmd import rbf
from steps.monitor.streams import block_length, correction, draw_endless, draw_once, run_length


def points(num_groups: int, size: int, seed: int = 0) -> np.ndarray:
    """Groups of alike points, one after the other."""
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(num_groups, 1, 8)), rng.normal(size=(num_groups, size, 8))
    return (np.sqrt(0.7) * shared + np.sqrt(0.3) * own).reshape(-1, 8).astype(np.float32)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (5, 5)])
def test_block_length_is_how_far_likeness_reaches(size: int, expected: int) -> None:
    some = points(600 // size, size)
    found = block_length(rbf(some, some, 4.0), max_length=20)
    assert abs(found - expected) <= 1


@pytest.mark.parametrize("block", [1, 4])
def test_a_stream_drawn_once_has_no_session_twice_and_keeps_blocks(block: int) -> None:
    drawn = draw_once(np.random.default_rng(0), 101, num_streams=50, length=39, block=block)
    assert drawn.shape == (50, 39)
    assert drawn.min() >= 0
    assert drawn.max() <= 100
    assert all(len(set(stream)) == 39 for stream in drawn.tolist())
    together = (np.diff(drawn, axis=1) == 1).mean()
    assert together > 0.7 if block == 4 else together < 0.1


@pytest.mark.parametrize(("pool", "window", "block"), [(30, 10, 1), (400, 20, 5), (11, 10, 3)])
def test_an_endless_stream_has_no_session_twice_in_a_window(pool: int, window: int, block: int) -> None:
    drawn = draw_endless(np.random.default_rng(0), pool, num_streams=20, length=200, block=block, window=window)
    assert drawn.shape == (20, 200)
    for stream in drawn.tolist():
        assert all(len(set(stream[start : start + window])) == window for start in range(200 - window))


def test_run_length_counts_censored_streams() -> None:
    alarms = np.zeros((3, 10), np.bool_)
    alarms[0, 4] = alarms[0, 7] = alarms[1, 0] = True
    assert run_length(alarms) == ((5 + 1 + 10) / 2, 2)
    assert run_length(np.zeros((3, 10), np.bool_)) == (30.0, 0)


def test_correction_finds_the_factor_of_the_promised_run_length() -> None:
    assert correction(lambda factor: 100 * factor**2, 400) == pytest.approx(2.0, rel=1e-3)
