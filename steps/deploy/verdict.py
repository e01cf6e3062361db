"""What to do after a look: pure decisions, apart from all I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steps.common.releases import Evidence, Rollout, Stage
from steps.deploy.config import DeployConfig

Action = Literal["wait", "raise", "promote", "roll_back", "hold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the challenger's application is.

    Attributes:
        ready: It answers.
        failed: Serve gave it up, or its state says why it never can.
        unready_s: Since when it does not answer, in seconds; 0 if it does.
        num_deaths: Replicas that had to be started again.
        message: What Serve says.
    """

    ready: bool
    failed: bool = False
    unready_s: float = 0.0
    num_deaths: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do, and why.

    Attributes:
        action: `wait` for more; `raise` the weight; `promote`; `roll_back`; `hold`: end without a verdict.
        reason: One sentence.
        condemn: The version must not be tried again.
    """

    action: Action
    reason: str
    condemn: bool = False


def decide(
    config: DeployConfig, rollout: Rollout, evidence: Evidence, *, units_in_step: int, health: Health, now: float
) -> Verdict:
    """Decides after a look.

    Hard failures come first, then the evidence against the challenger, then the deadline: a challenger that is shown
    to be worse is condemned even if the time is up at the same look.

    Args:
        config: The rules.
        rollout: The rollout, as recorded.
        evidence: What the look saw.
        units_in_step: Challenger units of the step in force.
        health: How its application is.
        now: Unix seconds by the store's clock.
    """
    broken = _hard_failure(config, health)
    if broken is not None:
        return Verdict(action="roll_back", reason=broken, condemn=True)
    threshold = 1 / config.alpha
    if evidence.e_value >= threshold:
        worst = max(evidence.e_values, key=lambda metric: evidence.e_values[metric])
        counts = evidence.bad.get(worst, {})
        reason = (
            f"worse than the champion by {worst!r}: E = {evidence.e_value:.3g} >= {threshold:g} "
            f"({counts.get('challenger', 0)} of {evidence.units.get('challenger', 0)} units bad, "
            f"champion {counts.get('champion', 0)} of {evidence.units.get('champion', 0)})"
        )
        return Verdict(action="roll_back", reason=reason, condemn=True)
    if now >= rollout.deadline_at:
        return _timed_out(config, evidence)
    missing = _missing(config, units_in_step, now - rollout.step.started_at, health)
    if missing is not None:
        return Verdict(action="wait", reason=missing)
    following = next_step(config, rollout)
    if following is not None:
        stage, weight = following
        return Verdict(action="raise", reason=f"no evidence against it, on to {stage} with weight {weight:g}")
    return _at_last_weight(config, evidence)


def next_step(config: DeployConfig, rollout: Rollout) -> tuple[Stage, float] | None:
    """Gives stage and weight of the step after the one in force; None after the last."""
    current = rollout.weight if rollout.stage == "canary" else 0.0
    return next((("canary", weight) for weight in config.weights if weight > current), None)


def _missing(config: DeployConfig, units_in_step: int, waited_s: float, health: Health) -> str | None:
    if not health.ready:
        return "the challenger is not ready"
    if units_in_step < config.min_units:
        return f"{units_in_step} of {config.min_units} units seen at this weight"
    if waited_s < config.min_step_s:
        return f"{waited_s:.0f} of {config.min_step_s:g} s at this weight"
    return None


def _at_last_weight(config: DeployConfig, evidence: Evidence) -> Verdict:
    if evidence.upper_bound > config.max_failed_rate:
        reason = f"failed units may be up to {evidence.upper_bound:.2%}, more than {config.max_failed_rate:.2%}"
        return Verdict(action="wait", reason=reason)
    reason = (
        f"no evidence against it (E = {evidence.e_value:.3g} < {1 / config.alpha:g}), and at most "
        f"{evidence.upper_bound:.2%} failed units at confidence {1 - config.alpha:.0%}"
    )
    return Verdict(action="promote", reason=reason)


def _hard_failure(config: DeployConfig, health: Health) -> str | None:
    said = f": {health.message}" if health.message else ""
    if health.failed:
        return f"the challenger cannot be served{said}"
    if health.num_deaths >= config.max_deaths:
        return f"the challenger's replicas died {health.num_deaths} times"
    if not health.ready and health.unready_s >= config.unready_s:
        return f"the challenger was not ready for {health.unready_s:.0f} s{said}"
    return None


def _timed_out(config: DeployConfig, evidence: Evidence) -> Verdict:
    seen = evidence.units.get("challenger", 0)
    reason = f"not decided in {config.timeout_s:g} s: {seen} units seen, failed units up to {evidence.upper_bound:.2%}"
    return Verdict(action=config.on_timeout, reason=f"{reason}; policy: {config.on_timeout}")
