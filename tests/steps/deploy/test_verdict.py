from __future__ import annotations

from typing import Any

import pytest

from steps.common.releases import Evidence, Limits, ReleasedModel, Rollout, RolloutStep, Stage
from steps.deploy.config import DeployConfig
from steps.deploy.verdict import Health, Verdict, decide, next_step
from workflows.log import TreeRef

CONFIG = DeployConfig(weights=(0.1, 0.5), min_units=10, min_step_s=5, max_failed_rate=0.1, timeout_s=100, unready_s=30)
WELL = Health(ready=True)


def rollout(stage: Stage = "canary", weight: float = 0.1) -> Rollout:
    return Rollout(
        id="r",
        challenger=ReleasedModel("2", TreeRef("0" * 64, 1, 1), {}, "pages@v1", "run-1"),
        run_id="run-1",
        epoch=1,
        opened_at=0.0,
        deadline_at=100.0,
        limits=Limits(),
        steps=(RolloutStep(index=0, stage=stage, weight=weight, started_at=0.0),),
    )


def evidence(e_value: float = 1.0, upper_bound: float = 0.05) -> Evidence:
    return Evidence(
        look="look",
        at=0.0,
        step=0,
        requests={},
        units={"champion": 50, "challenger": 50},
        bad={"failed": {"champion": 0, "challenger": 7}},
        e_values={"failed": e_value, "slow": 1.0},
        e_value=e_value,
        upper_bound=upper_bound,
    )


def verdict(
    at: Rollout | None = None, seen: Evidence | None = None, config: DeployConfig = CONFIG, **changes: Any
) -> Verdict:
    given: dict[str, Any] = {"units_in_step": 10, "health": WELL, "now": 10.0, **changes}
    return decide(config, at or rollout(), seen or evidence(), **given)


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(ready=False, failed=True, message="no such file"), "no such file"),
        (Health(ready=True, num_deaths=3), "died 3 times"),
        (Health(ready=False, unready_s=31), "not ready for 31 s"),
    ],
)
def test_hard_failures_roll_back_at_once_and_condemn(health: Health, words: str) -> None:
    found = verdict(health=health, units_in_step=0, now=0.0)
    assert (found.action, found.condemn) == ("roll_back", True)
    assert words in found.reason


@pytest.mark.parametrize("health", [Health(ready=False, unready_s=29), Health(ready=True, num_deaths=2)])
def test_a_restart_is_not_a_hard_failure_yet(health: Health) -> None:
    assert verdict(health=health, units_in_step=0).action == "wait"


def test_evidence_rolls_back_and_names_what_was_worse() -> None:
    found = verdict(seen=evidence(e_value=20.0))
    assert (found.action, found.condemn) == ("roll_back", True)
    assert "'failed'" in found.reason
    assert "7 of 50" in found.reason
    assert verdict(seen=evidence(e_value=19.9)).action == "raise"


def test_evidence_counts_even_at_the_deadline() -> None:
    assert verdict(seen=evidence(e_value=25.0), now=500.0).condemn


def test_too_little_traffic_or_time_waits() -> None:
    assert verdict(units_in_step=9).action == "wait"
    assert verdict(now=4.0).action == "wait"


@pytest.mark.parametrize("policy", ["hold", "roll_back", "promote"])
def test_at_the_deadline_the_policy_decides_and_condemns_nothing(policy: Any) -> None:
    config = CONFIG.model_copy(update={"on_timeout": policy})
    found = verdict(config=config, units_in_step=0, now=100.0)
    assert (found.action, found.condemn) == (policy, False)


def test_weights_rise_one_by_one_from_the_shadow_on() -> None:
    assert next_step(CONFIG, rollout("shadow", 0.0)) == ("canary", 0.1)
    assert next_step(CONFIG, rollout("canary", 0.1)) == ("canary", 0.5)
    assert next_step(CONFIG, rollout("canary", 0.5)) is None
    assert verdict(rollout("shadow", 0.0)).action == "raise"


def test_promotion_needs_a_bound_below_the_agreed_rate() -> None:
    last = rollout("canary", 0.5)
    assert verdict(last, evidence(upper_bound=0.11)).action == "wait"
    found = verdict(last, evidence(upper_bound=0.1))
    assert found.action == "promote"
    assert "10.00%" in found.reason
