from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from steps.common.eprocess import DEFAULT_NULL_RATIO, WeightedOdds, combined
from steps.common.outcomes import Outcome
from steps.common.releases import Limits, ReleasedModel, Rollout, RolloutStep
from steps.deploy.judging import Tally, pinned
from steps.deploy.quality import SHARES
from steps.deploy.splitting import on_challenger
from workflows.log import TreeRef

STEPS = (
    RolloutStep(index=0, stage="canary", weight=0.1, started_at=0.0),
    RolloutStep(index=1, stage="canary", weight=0.5, started_at=10.0),
)


def rollout(*steps: RolloutStep) -> Rollout:
    return Rollout(
        id="r",
        challenger=ReleasedModel("2", TreeRef("0" * 64, 1, 1), {}, "pages@v1", "run-1"),
        run_id="run-1",
        epoch=1,
        opened_at=0.0,
        deadline_at=1e9,
        limits=Limits(),
        steps=steps or STEPS,
    )


def outcome(session: str, variant: Any, step: int = 0, at: float = 0.0, **changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "request_id": f"{session}-{step}-{at}",
        "session": session,
        "at": at,
        "variant": variant,
        "version": "1" if variant == "champion" else "2",
        "status": 200,
        "rollout": "r",
        "step": step,
        "finish_reason": "stop",
    }
    return Outcome(**{**settings, **changes})


def tally(*outcomes: Outcome, steps: tuple[RolloutStep, ...] = STEPS) -> Tally:
    made = Tally(rollout(*steps), DEFAULT_NULL_RATIO)
    made.take(outcomes)
    return made


def test_a_session_counts_once_in_a_step_however_often_it_fails() -> None:
    once = tally(outcome("a", "canary", bad=("failed",)))
    often = tally(*(outcome("a", "canary", at=float(n), bad=("failed",)) for n in range(9)))
    assert often.processes == once.processes
    assert often.processes["failed"] == WeightedOdds().observe(0.1, from_canary=True)
    assert often.units["challenger"] == {("a", 0)}
    assert often.requests["challenger"] == 9


def test_what_is_known_of_a_session_changes_its_odds() -> None:
    known = tally(outcome("a", "champion"), outcome("a", "canary", step=1, at=11.0, bad=("failed",)))
    assert known.processes["failed"] == WeightedOdds().observe((0.5 - 0.1) / 0.9, from_canary=True)
    fresh = tally(outcome("b", "canary", step=1, at=11.0, bad=("failed",)))
    assert fresh.processes["failed"] == WeightedOdds().observe(0.5, from_canary=True)
    certain = tally(outcome("c", "canary"), outcome("c", "canary", step=1, at=11.0, bad=("failed",)))
    assert certain.processes["failed"] == WeightedOdds()


def test_the_order_of_writers_does_not_matter() -> None:
    outcomes = [
        outcome(f"s{n}", "canary" if n % 3 else "champion", step=n % 2, at=float(n), bad=("failed",) * (n % 2))
        for n in range(40)
    ]
    shuffled = outcomes[:]
    random.Random(1).shuffle(shuffled)
    assert tally(*shuffled).processes == tally(*outcomes).processes


def test_others_outcomes_and_those_of_clients_who_left_do_not_count() -> None:
    seen = tally(
        outcome("a", "canary", rollout="other", bad=("failed",)),
        outcome("b", "canary", rollout=None, bad=("failed",)),
        outcome("c", "canary", finish_reason="abort", bad=("failed",)),
        outcome("d", "champion", fell_back=True),
    )
    assert seen.requests == {"champion": 0, "challenger": 0}
    assert seen.e_value == pytest.approx(1.0)


def test_in_the_shadow_only_differences_count_and_times_do_not() -> None:
    shadow = (RolloutStep(index=0, stage="shadow", weight=0.0, started_at=0.0),)

    def pair(session: str, champion: tuple[str, ...], copy: tuple[str, ...]) -> Iterator[Outcome]:
        yield outcome(session, "champion", request_id=session, bad=champion)
        yield outcome(session, "shadow", request_id=session, at=1.0, bad=copy)

    def seen(champion: tuple[str, ...], copy: tuple[str, ...]) -> Tally:
        return tally(*pair("a", champion, copy), steps=shadow)

    assert seen((), ("failed",)).processes["failed"] == WeightedOdds().observe(0.5, from_canary=True)
    assert seen(("degenerate",), ()).processes["degenerate"] == WeightedOdds().observe(0.5, from_canary=False)
    assert seen(("failed",), ("failed",)).e_value == pytest.approx(1.0)
    assert seen((), ("slow",)).e_value == pytest.approx(1.0)
    assert tally(outcome("a", "shadow", bad=("failed",)), steps=shadow).e_value == pytest.approx(1.0)


def test_evidence_sums_up_what_was_seen() -> None:
    seen = tally(outcome("a", "champion"), outcome("b", "canary", bad=("failed",)), outcome("c", "canary"))
    evidence = seen.evidence("look", 5.0, 0.05)
    assert evidence.requests == {"champion": 1, "challenger": 2}
    assert evidence.bad["failed"] == {"champion": 0, "challenger": 1}
    assert evidence.e_value == pytest.approx(combined(evidence.e_values, SHARES))
    assert evidence.e_value > 1
    assert 0.5 < evidence.upper_bound < 1
    assert tally().evidence("look", 5.0, 0.05).upper_bound == 1.0


def simulate(generator: random.Random, canary_factor: float, num_sessions: int = 400) -> bool:
    """Sticky sessions with very unequal failure rates; tells whether the rollout was rolled back at some look."""
    rates = {f"s{n}-{generator.random()}": generator.choice([0.0, 0.02, 0.5]) for n in range(num_sessions)}
    outcomes: list[Outcome] = []
    for step in STEPS:
        for turn in range(4):
            for session, rate in rates.items():
                canary = on_challenger("r", session, step.weight)
                bad = generator.random() < min(1.0, rate * (canary_factor if canary else 1.0))
                at = step.started_at + turn
                outcomes.append(
                    outcome(session, "canary" if canary else "champion", step.index, at, bad=("failed",) * bad)
                )
            if tally(*outcomes).e_value >= 20:
                return True
    return False


def test_sessions_that_fail_again_and_again_do_not_make_false_rollbacks() -> None:
    generator = random.Random(4)
    assert sum(simulate(generator, 1.0) for _ in range(40)) <= 3


def test_a_canary_that_makes_every_session_fail_is_rolled_back() -> None:
    generator = random.Random(5)
    assert all(simulate(generator, 50.0) for _ in range(5))


def test_quantiles_need_enough_values() -> None:
    assert pinned({"ttft": [1.0] * 99})["ttft"] is None
    assert pinned({"ttft": [float(n) for n in range(100)]})["ttft"] == 95.0
