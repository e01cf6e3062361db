from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steps.common.bootstrap import bootstrap_mean
from steps.common.results import Interval
from steps.evaluate import EvaluateConfig, decide
from steps.evaluate.text import fault, repetition
from steps.evaluate.verdict import Measured

CONFIG = EvaluateConfig(min_documents=10)
SOUND = Measured(
    damage=None,
    is_finite=True,
    faults=(None, None, None, "repetition"),
    num_documents=30,
    loss=4.0,
    unigram_loss=6.0,
    difference=None,
)


def interval(low: float, high: float) -> Interval:
    return Interval(estimate=(low + high) / 2, low=low, high=high, confidence=0.95)


@pytest.mark.parametrize(
    ("changes", "settings", "verdict", "reason"),
    [
        ({}, {}, "promote", "first model, and it has learned"),
        ({"loss": 6.0}, {}, "reject", "has not learned"),
        ({"difference": interval(-0.2, -0.1)}, {}, "promote", "better: -0.1500 nats per byte"),
        ({"difference": interval(0.1, 0.2)}, {}, "reject", "worse: +0.1500"),
        ({"difference": interval(-0.1, 0.2)}, {}, "hold", "no difference can be shown"),
        ({"difference": interval(0.0, 0.0)}, {}, "hold", "no difference can be shown"),
        ({"difference": interval(-0.1, 0.02)}, {"margin": 0.02}, "promote", "not worse by more than the margin"),
        ({"difference": interval(0.01, 0.02)}, {"margin": 0.02}, "promote", "not worse by more than the margin"),
        ({"difference": interval(-0.1, 0.03)}, {"margin": 0.02}, "hold", "no difference"),
        ({"difference": interval(0.01, 0.03)}, {"margin": 0.02}, "reject", "worse"),
        ({"num_documents": 9}, {}, "hold", "9 held-out documents are too few"),
        ({"is_finite": False}, {}, "reject", "not finite"),
        ({"faults": ("empty", "empty", None)}, {}, "reject", "2 of 3 answers are degenerate: empty 2 times"),
        ({"faults": ("empty", None)}, {}, "promote", "first model"),
        ({"damage": "digest differs"}, {}, "reject", "cannot be loaded: digest differs"),
        ({"is_finite": False, "num_documents": 1}, {}, "reject", "not finite"),
    ],
)
def test_the_gates_in_order(changes: dict[str, Any], settings: dict[str, Any], verdict: str, reason: str) -> None:
    found, reasons = decide(replace(SOUND, **changes), CONFIG.model_copy(update=settings))
    assert found == verdict
    assert reason in reasons[0]
    forced, named = decide(replace(SOUND, **changes), CONFIG.model_copy(update={**settings, "force": "promote"}))
    assert forced == "promote"
    assert "force=promote" in named[0]
    assert verdict in named[0]
    assert named[1:] == reasons


def test_equal_models_are_not_promoted_more_often_than_the_confidence_allows() -> None:
    generator = np.random.default_rng(0)
    verdicts = []
    for trial in range(1000):
        # Losses of documents differ far more than two equally good models differ on a document.
        difference = generator.normal(0, 0.05, 40) * generator.exponential(1.0, 40)
        found = bootstrap_mean(difference, confidence=0.95, num_resamples=400, seed=trial)
        verdicts.append(decide(replace(SOUND, difference=found), CONFIG)[0])
    assert verdicts.count("promote") <= 50
    assert verdicts.count("reject") <= 50


def test_a_better_model_is_found() -> None:
    generator = np.random.default_rng(1)
    found = [
        decide(
            replace(
                SOUND,
                difference=bootstrap_mean(
                    generator.normal(-0.03, 0.05, 40), confidence=0.95, num_resamples=400, seed=trial
                ),
            ),
            CONFIG,
        )[0]
        for trial in range(200)
    ]
    assert found.count("promote") >= 160


@pytest.mark.parametrize(
    ("ids", "text", "expected"),
    [
        ([], "", "empty"),
        ([5, 6], " \n\t", "empty"),
        ([7] * 12, "aaaa", "one token"),
        ([1, 2, 3] * 20, "abc" * 20, "repetition"),
        (list(range(40)), "many words", None),
        ([7, 7], "aa", None),
    ],
)
def test_degenerate_answers_are_named(ids: list[int], text: str, expected: str | None) -> None:
    assert fault(ids, text, max_repetition=0.8) == expected


def test_repetition_is_the_share_of_repeated_grams() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([1, 2]) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_documents": 20, "max_documents": 10}, "min_documents=20 must not be above max_documents=10"),
        ({"prompts": (), "num_document_prompts": 0}, "must not both be empty"),
        ({"confidence": 95}, "confidence"),
        ({"force": "reject"}, "force"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**settings)
