"""The embedding detector: its statistic is the MMD, its run length the promised one, its size constant."""

from __future__ import annotations

import numpy as np
import pytest

from steps.monitor.detectors import MmdDetector, Point, Watch
from steps.monitor.mmd import MmdReference, MmdWindow, calibrate, rbf

WINDOW = 10


def draw(rng: np.random.Generator, num: int, shift: float = 0.0) -> np.ndarray:
    return (rng.normal(size=(num, 8)) + shift).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> MmdReference:
    rng = np.random.default_rng(1)
    return calibrate(draw(rng, 600), draw(rng, 300), target=200, window=WINDOW, num_bootstraps=1000, rng=rng)


def test_statistic_is_the_squared_mmd_of_the_window(fitted: MmdReference) -> None:
    rng = np.random.default_rng(2)
    window = MmdWindow.start(fitted, seed=3)
    new = draw(rng, WINDOW + 3)
    statistic = [window.add(point) for point in new][-1]
    x, y = fitted.points, new[-WINDOW:]
    xx, yy, xy = (rbf(*pair, fitted.bandwidth) for pair in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)
    expected = xx.sum() / (len(x) * (len(x) - 1)) + yy.sum() / (WINDOW * (WINDOW - 1)) - 2 * xy.mean()
    assert statistic == pytest.approx(float(expected), abs=1e-5)


def test_replay_measures_what_was_promised(fitted: MmdReference) -> None:
    assert 0.8 <= fitted.measured / 200 <= 1.25
    assert fitted.num_alarms > 100
    assert fitted.block == 1


def test_run_length_on_fresh_traffic_is_near_the_promise_and_a_shift_is_found_soon(fitted: MmdReference) -> None:
    rng = np.random.default_rng(4)
    watch = MmdWindow.start(fitted, seed=0)
    num_steps, num_alarms = 15_000, 0
    for point in draw(rng, num_steps):
        if watch.add(point) > watch.threshold():
            num_alarms += 1
            watch = MmdWindow.start(fitted, seed=num_alarms)
    # One reference of 600 sessions differs from the next by tens of percent; the benchmark averages over many.
    assert 0.5 <= num_steps / num_alarms / 200 <= 2.0
    delays = []
    for seed in range(10):
        watch = MmdWindow.start(fitted, seed)
        delays.append(
            next(step for step, point in enumerate(draw(rng, 300, 0.7)) if watch.add(point) > watch.threshold())
        )
    assert np.mean(delays) < 2 * WINDOW


def test_sessions_in_bursts_are_calibrated_in_blocks() -> None:
    rng = np.random.default_rng(5)

    def bursts(num: int) -> np.ndarray:
        shared, own = rng.normal(size=(num // 5, 1, 8)), rng.normal(size=(num // 5, 5, 8))
        return (np.sqrt(0.7) * shared + np.sqrt(0.3) * own).reshape(-1, 8).astype(np.float32)

    fitted = calibrate(bursts(600), bursts(300), target=100, window=WINDOW, num_bootstraps=500, rng=rng)
    assert 3 <= fitted.block <= 7
    watch, num_alarms = MmdWindow.start(fitted, 0), 0
    for point in bursts(5000):
        if watch.add(point) > watch.threshold():
            num_alarms += 1
            watch = MmdWindow.start(fitted, num_alarms)
    assert 5000 / num_alarms > 50


def test_state_is_constant_in_size_and_goes_on_where_it_was(fitted: MmdReference) -> None:
    rng = np.random.default_rng(6)
    first, second = Watch(MmdDetector(fitted)), Watch(MmdDetector(fitted))
    sizes = set()
    for point in draw(rng, 500):
        first.step(Point(point, point))
        sizes.add(len(str(first.dump()["detector"]["points"])))
    second.load(first.dump())
    assert len(sizes) == 1
    after = draw(rng, 30)
    readings = [[watch.step(Point(point, point)) for point in after] for watch in (first, second)]
    for left, right in zip(*readings, strict=True):
        assert left is not None
        assert right is not None
        assert left.statistic == pytest.approx(right.statistic, abs=1e-6)


def test_an_alarm_is_confirmed_by_the_next_window_or_dropped(fitted: MmdReference) -> None:
    rng = np.random.default_rng(7)
    watch = Watch(MmdDetector(fitted))
    drifted = [watch.step(Point(point, point)) for point in draw(rng, 60, 1.5)]
    alarms = [step for step, reading in enumerate(drifted) if reading and reading.alarm]
    confirmed = [step for step, reading in enumerate(drifted) if reading and reading.confirmed]
    assert confirmed[0] == alarms[0] + WINDOW
    watch = Watch(MmdDetector(fitted))
    passing = [*draw(rng, 5, 2.0), *draw(rng, 2 * WINDOW)]
    readings = [watch.step(Point(point, point)) for point in passing]
    assert any(reading and reading.alarm for reading in readings)
    assert not any(reading and reading.confirmed for reading in readings)
