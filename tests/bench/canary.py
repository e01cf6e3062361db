"""How rules for canaries decide, side by side on the same simulated rollouts.

    python -m tests.bench.canary [--runs 1000]

A rollout has 4 steps (5, 10, 25, 50 %) of 1,000 requests, and every rule looks after each 100 requests. Printed for
each pair of failure rates and each rule: share rolled back, and the median request and median number of failed canary
answers at which it was. Equal rates: a rollback is false. `ours` is what a rollout does by default; the e-process
alone, on one metric, stands below it. Beside them a two-proportion z-test at each look, and the rules that the
documentation of Argo Rollouts (success rate >= 95 % of the window, `failureLimit: 3`) and of Flagger (success rate >=
99 %, `threshold: 10` failed checks) shows. A second table holds sticky sessions with very unequal failure rates,
judged by session and step, and by request.

| promise | number |
| --- | --- |
| false rollbacks | <= 5 % |
| 1 -> 5 % failures found | >= 99 % |
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from steps.common.eprocess import DEFAULT_NULL_RATIO, ODDS, WeightedOdds, conditional_weight
from steps.deploy.quality import SHARES

WEIGHTS = (0.05, 0.1, 0.25, 0.5)
PER_STEP, WINDOW, ALPHA = 1000, 100, 0.05
PAIRS = ((0.01, 0.01), (0.02, 0.02), (0.05, 0.05), (0.01, 0.03), (0.01, 0.05), (0.01, 0.2))


@dataclass(frozen=True, slots=True)
class Rollout:
    """Simulated requests, in order: the weight in force, who answered, whether it failed."""

    weight: np.ndarray
    canary: np.ndarray
    bad: np.ndarray


Rule = Callable[[Rollout], int | None]
"""Gives the number of requests after which a rollout is rolled back, or None."""


def simulate(generator: np.random.Generator, stable: float, canary: float) -> Rollout:
    """Draws one rollout."""
    weight = np.repeat(WEIGHTS, PER_STEP)
    side = generator.random(weight.size) < weight
    return Rollout(weight, side, generator.random(weight.size) < np.where(side, canary, stable))


def looks(rollout: Rollout) -> Iterator[int]:
    return iter(range(WINDOW, rollout.bad.size + 1, WINDOW))


def e_process(null_ratio: float, share: float = 1.0) -> Rule:
    """`WeightedOdds`, its products summed over all bad units at once, which is the same and faster here.

    Args:
        null_ratio: R0.
        share: The part of alpha that failures get; the other metrics see nothing bad, so their e-values stay 1.
    """

    def rule(rollout: Rollout) -> int | None:
        at = np.flatnonzero(rollout.bad)
        weight, canary = rollout.weight[at, None], rollout.canary[at, None]

        def log_probability(ratio: np.ndarray) -> np.ndarray:
            total = ratio * weight + 1 - weight
            return np.where(canary, np.log(ratio * weight / total), np.log((1 - weight) / total))

        logs = np.cumsum(log_probability(np.array(ODDS)) - log_probability(np.array([null_ratio])), axis=0)
        values = np.exp(logs).mean(axis=1)
        for look in looks(rollout):
            seen = int(np.searchsorted(at, look))
            if seen and share * values[seen - 1] + 1 - share >= 1 / ALPHA:
                return look
        return None

    return rule


def z_test(rollout: Rollout) -> int | None:
    """One-sided two-proportion z-test at each look, as if it were the only one."""
    for look in looks(rollout):
        canary, bad = rollout.canary[:look], rollout.bad[:look]
        num_canary, num_stable = int(canary.sum()), int((~canary).sum())
        pooled = bad.mean()
        if not num_canary or not num_stable or pooled in (0, 1):
            continue
        spread = np.sqrt(pooled * (1 - pooled) * (1 / num_canary + 1 / num_stable))
        if (bad[canary].mean() - bad[~canary].mean()) / spread > 1.645:
            return look
    return None


def threshold(min_success: float, num_failed_checks: int) -> Rule:
    """A fixed success rate of the canary per window; rolled back at this many failed checks. Empty windows pass."""

    def rule(rollout: Rollout) -> int | None:
        failed = 0
        for look in looks(rollout):
            window = slice(look - WINDOW, look)
            canary = rollout.canary[window]
            if canary.any() and 1 - rollout.bad[window][canary].mean() < min_success:
                failed += 1
            if failed >= num_failed_checks:
                return look
        return None

    return rule


OURS = "ours"

RULES: dict[str, Rule] = {
    # What a rollout does by default: failures share alpha with three other metrics.
    OURS: e_process(DEFAULT_NULL_RATIO, SHARES["failed"]),
    "e-process R0=1.25": e_process(1.25),
    "e-process R0=1": e_process(1.0),
    "z-test each look": z_test,
    # Argo's analysis fails when there are more failed measurements than `failureLimit`, Flagger's at its threshold.
    "Argo docs 95 %, 3": threshold(0.95, 4),
    "Flagger docs 99 %, 10": threshold(0.99, 10),
}


def compare(num_runs: int) -> list[dict[str, object]]:
    """Gives one row for each pair of rates and each rule."""
    rows: list[dict[str, object]] = []
    for stable, canary in PAIRS:
        generator = np.random.default_rng(7)
        rollouts = [simulate(generator, stable, canary) for _ in range(num_runs)]
        for name, rule in RULES.items():
            ends = [(rollout, rule(rollout)) for rollout in rollouts]
            found = [(r, end) for r, end in ends if end is not None]
            failed = [int((r.bad[:end] & r.canary[:end]).sum()) for r, end in found]
            rows.append(
                {
                    "stable": stable,
                    "canary": canary,
                    "rule": name,
                    "rolled_back": len(found) / num_runs,
                    "median_requests": float(np.median([end for _, end in found])) if found else None,
                    "median_failed": float(np.median(failed)) if failed else None,
                }
            )
    return rows


def sticky(num_runs: int, *, by_session: bool) -> float:
    """Share of false rollbacks among sessions of 20 requests a step whose failure rates differ a hundredfold."""
    generator = np.random.default_rng(11)
    return sum(_sticky_run(generator, by_session=by_session) for _ in range(num_runs)) / num_runs


def _sticky_run(generator: np.random.Generator, *, by_session: bool, num_sessions: int = 200) -> bool:
    rates = np.where(generator.random(num_sessions) < 0.05, 0.5, 0.005)
    places = generator.random(num_sessions)
    process, before = WeightedOdds(), 0.0
    for weight in WEIGHTS:
        num_bad = generator.binomial(20, rates)
        for session in generator.permutation(np.flatnonzero(num_bad)):
            canary = bool(places[session] < weight)
            if by_session:
                if places[session] >= before:
                    process = process.observe(conditional_weight(weight, before), from_canary=canary)
            else:
                for _ in range(num_bad[session]):
                    process = process.observe(weight, from_canary=canary)
            if process.value >= 1 / ALPHA:
                return True
        before = weight
    return False


def main() -> int:
    """Prints the tables; fails if a promise is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="simulated rollouts of each kind")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    began = time.process_time()
    rows = compare(options.runs)
    sessions = {
        "session and step": sticky(options.runs // 3, by_session=True),
        "request": sticky(options.runs // 3, by_session=False),
    }
    if options.json:
        print(json.dumps({"rules": rows, "sticky": sessions}))
    else:
        _show(rows, sessions)
        print(f"\n{time.process_time() - began:.0f} CPU seconds, {options.runs} rollouts of each kind")
    ours = [row for row in rows if row["rule"] == OURS]
    false_rate = max(_share(row) for row in ours if row["stable"] == row["canary"])
    detected = next(_share(row) for row in ours if (row["stable"], row["canary"]) == (0.01, 0.05))
    kept = false_rate <= 0.05 and sessions["session and step"] <= 0.05 and detected >= 0.99
    return 0 if kept else 1


def _share(row: dict[str, object]) -> float:
    value = row["rolled_back"]
    return float(value) if isinstance(value, float) else 0.0


def _show(rows: list[dict[str, object]], sessions: dict[str, float]) -> None:
    print("| failures stable -> canary | rule | rolled back | median requests | failed canary answers |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        rates = f"{row['stable']:.0%} -> {row['canary']:.0%}"
        ends = [row["median_requests"], row["median_failed"]]
        shown = [f"{end:,.0f}" if isinstance(end, float) else "-" for end in ends]
        print(f"| {rates} | {row['rule']} | {_share(row):.1%} | {shown[0]} | {shown[1]} |")
    print("\n| sticky sessions, no difference: unit | false rollbacks |\n| --- | --- |")
    for unit, share in sessions.items():
        print(f"| {unit} | {share:.1%} |")


if __name__ == "__main__":
    sys.exit(main())
