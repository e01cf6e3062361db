"""Drift detectors side by side: run length without drift, delay after a shift, cost a prompt.

Traffic is Gaussian features of 16 dimensions, one stream for all rules. `sessions` are 5 prompts that share a cause
(correlation 0.7); ours looks at one prompt of each, as the scan does. `bursts` are sessions of one prompt that come in
fives of a kind, so only the block bootstrap can know. Naive rules are those of common monitors: a domain classifier
whose AUC exceeds 0.55 (Evidently's default for text), a mean outside 3 standard deviations (NannyML's chunks), and
MMD-online with the plain bootstrap.

    python -m tests.bench.drift [--references 8] [--run-length 200] [--alibi]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from steps.monitor.config import MonitorConfig
from steps.monitor.detectors import Point
from steps.monitor.mmd import MmdReference, MmdWindow, calibrate
from steps.monitor.streams import Floats

SIZE, WINDOW, NUM_REFERENCE, CHUNK = 16, 20, 1500, 100
SHIFT = 0.35
Make = Callable[[np.random.Generator, int, float], Floats]
Rule = Callable[[Floats], list[int]]


def iid(rng: np.random.Generator, num: int, shift: float = 0.0) -> Floats:
    return (rng.normal(size=(num, SIZE)) + shift).astype(np.float32)


def in_fives(rng: np.random.Generator, num: int, shift: float = 0.0) -> Floats:
    groups = -(-num // 5)
    shared, own = rng.normal(size=(groups, 1, SIZE)), rng.normal(size=(groups, 5, SIZE))
    mixed = (math.sqrt(0.7) * shared + math.sqrt(0.3) * own).reshape(-1, SIZE)[:num]
    return (mixed + shift).astype(np.float32)


def first_of_session(rng: np.random.Generator, num: int, shift: float = 0.0) -> Floats:
    return in_fives(rng, 5 * num, shift)[::5]


def mmd_alarms(fitted: MmdReference) -> Rule:
    """The steps at which an MMD-online alarms; it starts anew after each."""

    def alarms(stream: Floats) -> list[int]:
        found: list[int] = []
        window = MmdWindow.start(fitted, 0)
        for step, point in enumerate(stream):
            if window.add(point) > window.threshold():
                found.append(step)
                window = MmdWindow.start(fitted, len(found))
        return found

    return alarms


def chunks(stream: Floats) -> Iterator[tuple[int, Floats]]:
    for end in range(CHUNK, len(stream) + 1, CHUNK):
        yield end - 1, stream[end - CHUNK : end]


def auc_alarms(reference: Floats) -> Rule:
    """A linear classifier of reference against chunk, AUC on the other half of both above 0.55."""
    rng = np.random.default_rng(0)

    def alarms(stream: Floats) -> list[int]:
        found = []
        for step, chunk in chunks(stream):
            old = reference[rng.permutation(len(reference))[:CHUNK]]
            half = CHUNK // 2
            pooled = np.cov(np.concatenate([old[:half] - old[:half].mean(0), chunk[:half] - chunk[:half].mean(0)]).T)
            direction = np.linalg.solve(pooled + 0.1 * np.eye(SIZE), chunk[:half].mean(0) - old[:half].mean(0))
            scores_old, scores_new = old[half:] @ direction, chunk[half:] @ direction
            if float((scores_new[:, None] > scores_old[None]).mean()) > 0.55:
                found.append(step)
        return found

    return alarms


def mean_alarms(reference: Floats) -> Rule:
    """The mean of any feature of a chunk outside 3 standard deviations of the chunk means of the reference."""
    means = np.stack([chunk.mean(0) for _, chunk in chunks(reference)])
    centre, spread = means.mean(0), means.std(0, ddof=1)

    def alarms(stream: Floats) -> list[int]:
        return [step for step, chunk in chunks(stream) if (abs(chunk.mean(0) - centre) > 3 * spread).any()]

    return alarms


def fit(make: Make, seed: int, run_length: float) -> tuple[MmdReference, Floats, Floats]:
    rng = np.random.default_rng(seed)
    traffic = make(rng, NUM_REFERENCE, 0.0)
    held = (np.arange(NUM_REFERENCE) // 50) % 3 == 2  # whole stretches, so that bursts stay on one side
    fitted = calibrate(traffic[~held], traffic[held], target=run_length, window=WINDOW, num_bootstraps=2000, rng=rng)
    return fitted, traffic[~held], traffic[held]


def plain(fitted: MmdReference) -> MmdReference:
    """The same detector with the thresholds of the bootstrap alone, which takes prompts for independent."""
    return replace(fitted, thresholds=fitted.thresholds / fitted.factor)


def measure(
    rules: Sequence[Rule], make: Make, run_length: float, num_runs: int, seed: int = 1
) -> tuple[float, list[float]]:
    """Mean run length over the rules (one a reference), and the delays after a shift."""
    steps = alarms = 0
    delays: list[float] = []
    for number, rule in enumerate(rules):
        rng = np.random.default_rng(10_000 * seed + number)
        stream = make(rng, int(num_runs * run_length), 0.0)
        steps, alarms = steps + len(stream), alarms + len(rule(stream))
        for _ in range(5):
            quiet, drifted = make(rng, WINDOW, 0.0), make(rng, 6 * CHUNK, SHIFT)
            found = [step - WINDOW for step in rule(np.concatenate([quiet, drifted])) if step >= WINDOW]
            delays.append(found[0] + 1 if found else math.inf)
    return steps / max(alarms, 1), delays


def alibi_alarms(reference: Floats, run_length: float, seed: int) -> tuple[Rule, Callable[[], None]]:
    from steps.monitor.alibi import AlibiDetector

    detector = AlibiDetector.fit(
        reference, MonitorConfig(engine="alibi-mmd", seed=seed), run_length=run_length, window=WINDOW
    )

    def alarms(stream: Floats) -> list[int]:
        detector.restart(0)
        found = []
        for step, point in enumerate(stream):
            statistic = detector.score(Point(point, point))
            if statistic is not None and statistic > detector.threshold():
                found.append(step)
                detector.restart(0)
        return found

    return alarms, detector.close


def timed(rule: Rule, stream: Floats) -> float:
    begun = time.perf_counter()
    rule(stream)
    return (time.perf_counter() - begun) / len(stream) * 1e3


def state_is_flat(fitted: MmdReference, num_prompts: int) -> tuple[int, int]:
    """Bytes that the window holds after few and after many prompts."""
    rng = np.random.default_rng(0)
    window = MmdWindow.start(fitted, 0)
    sizes: list[int] = []
    for point in iid(rng, num_prompts):
        window.add(point)
        sizes.append(window.points.nbytes + window.similarity.nbytes)
    return sizes[0], sizes[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Drift detectors side by side.")
    parser.add_argument("--references", type=int, default=8, help="references, each with a detector of its own")
    parser.add_argument("--run-length", type=float, default=200.0, help="promised sessions between false alarms")
    parser.add_argument("--runs", type=int, default=25, help="promised run lengths watched a reference")
    parser.add_argument("--alibi", action="store_true", help="also alibi-detect's MMDDriftOnline, on the same streams")
    options = parser.parse_args()
    wanted, num_runs, seeds = options.run_length, options.runs, range(options.references)
    print(f"{len(seeds)} references of {NUM_REFERENCE}, {num_runs} run lengths each, window {WINDOW}, shift {SHIFT} sd")
    print(f"{'rule':<28}{'traffic':<10}{'run length':>10}{'of promise':>11}{'delay':>7}{'ms/prompt':>11}")
    cost_stream = iid(np.random.default_rng(0), 3000)

    def show(name: str, traffic: str, make: Make, rules: Sequence[Rule], *, promised: bool = True) -> None:
        length, delays = measure(rules, make, wanted, num_runs)
        ratio = f"{length / wanted:11.2f}" if promised else f"{'-':>11}"
        cost = timed(rules[0], cost_stream)
        print(f"{name:<28}{traffic:<10}{length:10.0f}{ratio}{np.median(delays):7.0f}{cost:11.3f}", flush=True)

    independent = [fit(iid, seed, wanted) for seed in seeds]
    watched: tuple[tuple[str, Make], ...] = (("iid", iid), ("sessions", first_of_session), ("bursts", in_fives))
    unwatched: tuple[tuple[str, Make], ...] = (("iid", iid), ("sessions", in_fives))
    for traffic, make in watched:
        fits = independent if make is iid else [fit(make, seed, wanted) for seed in seeds]
        show("ours", traffic, make, [mmd_alarms(fitted) for fitted, _, _ in fits])
    for traffic, make in unwatched:
        show("MMD-online, bootstrap alone", traffic, make, [mmd_alarms(plain(fitted)) for fitted, _, _ in independent])
    for traffic, make in unwatched:
        rules = [auc_alarms(reference) for _, reference, _ in independent]
        show("AUC > 0.55, chunks of 100", traffic, make, rules, promised=False)
    for traffic, make in unwatched:
        rules = [mean_alarms(reference) for _, reference, _ in independent]
        show("mean +- 3 sd, chunks of 100", traffic, make, rules, promised=False)
    if options.alibi:
        started = [alibi_alarms(fits[1], wanted, seed) for seed, fits in zip(seeds, independent, strict=True)]
        for traffic, make in unwatched:
            show("alibi-detect MMDDriftOnline", traffic, make, [rule for rule, _ in started])
        for _, end in started:
            end()
    first, last = state_is_flat(independent[0][0], 20_000)
    print(f"state: {first} bytes after 1 prompt, {last} after 20,000")
    stated = np.array([fitted.measured / wanted for fitted, _, _ in independent])
    print(f"the replay itself stated {stated.mean():.2f} of the promise ({stated.min():.2f}..{stated.max():.2f})")


if __name__ == "__main__":
    main()
