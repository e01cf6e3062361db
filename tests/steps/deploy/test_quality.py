from __future__ import annotations

from typing import Any

import pytest

from steps.common.releases import Limits
from steps.deploy.quality import SHARES, defects, degenerate

PROSE = (
    "Return a new list containing all items from the iterable in ascending order. A custom key function can be "
    "supplied to customize the sort order, and the reverse flag can be set to request the result in descending order."
)


def found(**changes: Any) -> tuple[str, ...]:
    given: dict[str, Any] = {
        "failed": False,
        "ttft_s": 0.1,
        "tpot_s": 0.01,
        "answer": PROSE,
        "nats_per_byte": 1.0,
        "limits": Limits(ttft_s=1.0, tpot_s=0.1, nats_per_byte=3.0),
    }
    return defects(**{**given, **changes})


def test_a_good_answer_has_no_defects() -> None:
    assert found() == ()
    assert found(ttft_s=1.0, tpot_s=0.1, nats_per_byte=3.0) == ()


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"ttft_s": 1.01}, "slow"),
        ({"tpot_s": 0.11}, "slow"),
        ({"answer": " \n"}, "degenerate"),
        ({"nats_per_byte": 3.1}, "implausible"),
        ({"failed": True}, "failed"),
    ],
)
def test_each_defect_is_named(changes: dict[str, Any], metric: str) -> None:
    assert found(**changes) == (metric,)


def test_a_failed_answer_is_only_failed() -> None:
    assert found(failed=True, answer="", ttft_s=None, tpot_s=None) == ("failed",)


def test_what_was_not_measured_or_has_no_limit_is_not_bad() -> None:
    assert found(ttft_s=None, tpot_s=None, nats_per_byte=None) == ()
    assert found(ttft_s=99.0, nats_per_byte=99.0, limits=Limits()) == ()


@pytest.mark.parametrize("answer", ["", "the cat sat. " * 40, "a" * 300, "\n" * 300])
def test_loops_and_silence_are_degenerate(answer: str) -> None:
    assert degenerate(answer)


@pytest.mark.parametrize("answer", [PROSE, PROSE * 2, "no no no", "def f(x):\n    return x\n" * 3])
def test_prose_and_short_answers_are_not(answer: str) -> None:
    assert not degenerate(answer)


def test_the_shares_of_alpha_sum_to_one() -> None:
    assert sum(SHARES.values()) == pytest.approx(1.0)
