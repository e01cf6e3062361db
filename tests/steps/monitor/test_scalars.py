"""The scalar detector: p-values as theory has them, Holm's correction, a threshold that keeps its rate."""

from __future__ import annotations

import numpy as np
import pytest

from steps.monitor.scalars import ScalarWindow, calibrate, holm, p_values


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_agree_with_scipy(ties: bool) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        reference, window = rng.normal(size=400).astype(np.float32), rng.normal(size=25).astype(np.float32) + 0.3
        if ties:
            reference, window = np.round(reference), np.round(window)
        ours = p_values(np.sort(reference)[:, None], window[:, None])[0]
        assert ours == pytest.approx(stats.ks_2samp(reference, window).pvalue, abs=0.03)


def test_holm_steps_down() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([[0.5, 0.9], [0.001, 0.9]])), [[1.0, 1.0], [0.002, 0.9]])


def test_threshold_keeps_the_promised_run_length_and_names_what_moved() -> None:
    rng = np.random.default_rng(1)

    def draw(num: int, shift: float = 0.0) -> np.ndarray:
        return np.stack([rng.normal(size=num) + shift, rng.poisson(3, num)], axis=1).astype(np.float32)

    fitted = calibrate(("length", "words"), draw(800), draw(400), target=2000, window=20, rng=rng)
    assert 0.6 <= fitted.measured / 2000 <= 1.7
    watch = ScalarWindow.start(fitted)
    fresh = [watch.add(row) for row in draw(60_000)]
    full = [statistic for statistic in fresh if statistic is not None]
    assert len(full) == 3000
    assert 0.4 <= 60_000 / max(sum(statistic > fitted.threshold for statistic in full), 1) / 2000 <= 2.5
    drifted = [statistic for row in draw(20, 2.0) if (statistic := watch.add(row)) is not None]
    assert drifted[0] > fitted.threshold
    assert watch.moved["length"] < 1e-4 < watch.moved["words"]


def test_a_tiny_reference_still_fits() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(30, 3)).astype(np.float32)
    fitted = calibrate(("a", "b", "c"), values[:20], values[20:], target=100, window=5, rng=rng)
    assert fitted.threshold > 0
    assert fitted.measured >= 50
