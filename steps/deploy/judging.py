"""From outcomes to evidence: which units count, and what they say. Pure; the same outcomes give the same evidence.

The unit is a session within a step of the rollout, and only its first bad answer counts: answers of one session fail
together, and counting each would find differences where there are none (9 to 21 % false rollbacks in simulation against
1 to 2 %). Sessions stay with a variant while the weight rises, so what is known of a session from earlier steps changes
the probability that it is on the canary now; see `conditional_weight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from steps.common.eprocess import WeightedOdds, combined, conditional_weight, upper_bound
from steps.common.outcomes import Outcome
from steps.common.releases import Evidence, Rollout
from steps.deploy.quality import SHARES

SHADOW_METRICS = frozenset({"failed", "degenerate", "implausible"})
"""Copies wait in a queue behind real requests, so their times say nothing about the challenger."""


@dataclass(slots=True)
class Tally:
    """What was seen of a rollout so far.

    Attributes:
        rollout: The rollout that is judged.
        null_ratio: R0 of the e-process.
    """

    rollout: Rollout
    null_ratio: float
    processes: dict[str, WeightedOdds] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=lambda: {"champion": 0, "challenger": 0})
    units: dict[str, set[tuple[str, int]]] = field(default_factory=lambda: {"champion": set(), "challenger": set()})
    bad: dict[str, dict[str, set[tuple[str, int]]]] = field(default_factory=dict)
    _sides: dict[str, _Side] = field(default_factory=dict)
    _copied: dict[str, Outcome] = field(default_factory=dict)
    _weighed: set[tuple[str, str, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.processes = {metric: WeightedOdds(null_ratio=self.null_ratio) for metric in SHARES}
        self.bad = {metric: {"champion": set(), "challenger": set()} for metric in SHARES}

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Takes outcomes in, in the order of the steps; others than the rollout's are passed over."""
        mine = [outcome for outcome in outcomes if outcome.rollout == self.rollout.id and outcome.step is not None]
        for outcome in sorted(mine, key=lambda each: (each.step or 0, each.at, each.request_id)):
            step = outcome.step or 0
            if outcome.finish_reason == "abort" or step >= len(self.rollout.steps):
                continue
            if outcome.variant == "champion" and outcome.fell_back:
                continue  # answered in the challenger's place: its session is not the champion's
            self._count(outcome, step)
            if self.rollout.steps[step].stage == "shadow":
                self._take_pair(outcome, step)
            else:
                self._take_split(outcome, step)

    def _count(self, outcome: Outcome, step: int) -> None:
        side = "champion" if outcome.variant == "champion" else "challenger"
        unit = (outcome.session, step)
        self.requests[side] += 1
        self.units[side].add(unit)
        for metric in outcome.bad:
            if metric in self.bad:
                self.bad[metric][side].add(unit)

    def _take_pair(self, outcome: Outcome, step: int) -> None:
        """Both answered the same request: a difference is the challenger's with probability 1/2 if they are equal."""
        other = self._copied.pop(outcome.request_id, None)
        if other is None:
            self._copied[outcome.request_id] = outcome
            return
        champion, shadow = (outcome, other) if outcome.variant == "champion" else (other, outcome)
        for metric in SHADOW_METRICS & (set(champion.bad) ^ set(shadow.bad)):
            if metric == "implausible" and None in {champion.nats_per_byte, shadow.nats_per_byte}:
                continue
            self._weigh(metric, outcome.session, step, 0.5, from_canary=metric in shadow.bad)

    def _take_split(self, outcome: Outcome, step: int) -> None:
        side = self._sides.setdefault(outcome.session, _Side())
        weight = side.weight_at(step, self.rollout.steps[step].weight)
        for metric in outcome.bad:
            if metric in self.processes:
                self._weigh(metric, outcome.session, step, weight, from_canary=outcome.variant == "canary")
        side.saw(self.rollout.steps[step].weight, on_canary=outcome.variant == "canary")

    def _weigh(self, metric: str, session: str, step: int, weight: float, *, from_canary: bool) -> None:
        if (metric, session, step) in self._weighed:
            return
        self._weighed.add((metric, session, step))
        self.processes[metric] = self.processes[metric].observe(weight, from_canary=from_canary)

    @property
    def e_value(self) -> float:
        """E over all metrics; roll back at 1/alpha."""
        return combined({metric: process.value for metric, process in self.processes.items()}, SHARES)

    def units_at(self, step: int) -> int:
        """Challenger units of one step."""
        return sum(1 for _, at in self.units["challenger"] if at == step)

    def evidence(self, look: str, at: float, alpha: float) -> Evidence:
        """Gives the summary that the release log keeps."""
        num_units = len(self.units["challenger"])
        return Evidence(
            look=look,
            at=at,
            step=self.rollout.step.index,
            requests=dict(self.requests),
            units={side: len(units) for side, units in self.units.items()},
            bad={metric: {side: len(units) for side, units in sides.items()} for metric, sides in self.bad.items()},
            e_values={metric: process.value for metric, process in self.processes.items()},
            e_value=self.e_value,
            upper_bound=upper_bound(num_units, len(self.bad["failed"]["challenger"]), alpha) if num_units else 1.0,
        )


@dataclass(slots=True)
class _Side:
    """What earlier steps tell about the side of a session."""

    step: int = -1
    champion_at: float = 0.0
    was_on_canary: bool = False
    champion_now: float = 0.0
    canary_now: bool = False

    def weight_at(self, step: int, weight: float) -> float:
        """Probability, before this step's first answer, that the session is on the canary; 1 if that is certain."""
        if step > self.step:
            self.champion_at = max(self.champion_at, self.champion_now)
            self.was_on_canary = self.was_on_canary or self.canary_now
            self.step = step
        return 1.0 if self.was_on_canary else conditional_weight(weight, self.champion_at)

    def saw(self, weight: float, *, on_canary: bool) -> None:
        if on_canary:
            self.canary_now = True
        else:
            self.champion_now = max(self.champion_now, weight)


def pinned(
    values: Mapping[str, list[float]], quantile: float = 0.95, min_values: int = 100
) -> Mapping[str, float | None]:
    """Gives quantiles of what the champion did, or None where too little is known of it."""
    found: dict[str, float | None] = {}
    for name, each in values.items():
        ordered = sorted(each)
        found[name] = (
            ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if len(ordered) >= min_values else None
        )
    return found
