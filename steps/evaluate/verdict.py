"""The verdict: a pure function of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from steps.common.results import Interval
from steps.evaluate.config import EvaluateConfig

Verdict = Literal["promote", "hold", "reject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the verdict is about.

    Attributes:
        damage: Why the challenger cannot be loaded, or None.
        is_finite: Whether every loss of the challenger is a finite number.
        faults: What is wrong with each sampled answer, None for nothing.
        num_documents: Held-out documents scored.
        loss: Loss of the challenger, nats per token.
        unigram_loss: Loss of the unigram model of the same tokens.
        difference: Challenger minus champion, nats per byte; None without a champion.
    """

    damage: str | None
    is_finite: bool
    faults: tuple[str | None, ...]
    num_documents: int
    loss: float
    unigram_loss: float
    difference: Interval | None


def decide(measured: Measured, config: EvaluateConfig) -> tuple[Verdict, tuple[str, ...]]:
    """Promote, hold or reject, and why, the deciding reason first.

    Gates in order: can it be loaded and answer, is there enough to judge, is it better than what came before.
    """
    verdict, reasons = _judge(measured, config)
    if config.force == "promote":
        return "promote", (f"promotion was forced by force=promote; the checks said {verdict}", *reasons)
    return verdict, reasons


def _judge(measured: Measured, config: EvaluateConfig) -> tuple[Verdict, tuple[str, ...]]:
    unfit = _unfit(measured, config)
    if unfit:
        return "reject", tuple(unfit)
    if measured.num_documents < config.min_documents:
        return "hold", (
            f"{measured.num_documents} held-out documents are too few to decide; min_documents={config.min_documents}",
        )
    if measured.difference is None:
        return _judge_first(measured)
    return _judge_pair(measured.difference, config)


def _unfit(measured: Measured, config: EvaluateConfig) -> list[str]:
    if measured.damage is not None:
        return [f"the challenger cannot be loaded: {measured.damage}"]
    reasons = []
    if not measured.is_finite:
        reasons.append("the challenger gives losses that are not finite")
    bad: Sequence[str] = [fault for fault in measured.faults if fault is not None]
    if measured.faults and len(bad) / len(measured.faults) > config.max_degenerate:
        kinds = ", ".join(f"{kind} {bad.count(kind)} times" for kind in sorted(set(bad)))
        reasons.append(f"{len(bad)} of {len(measured.faults)} answers are degenerate: {kinds}")
    return reasons


def _judge_first(measured: Measured) -> tuple[Verdict, tuple[str, ...]]:
    compared = f"{measured.loss:.3f} nats per token against {measured.unigram_loss:.3f} of a unigram model"
    if math.isfinite(measured.loss) and measured.loss < measured.unigram_loss:
        return "promote", (f"first model, and it has learned: {compared}",)
    return "reject", (f"first model, and it has not learned: {compared}",)


def _judge_pair(difference: Interval, config: EvaluateConfig) -> tuple[Verdict, tuple[str, ...]]:
    shown = (
        f"{difference.estimate:+.4f} nats per byte against the champion, "
        f"{difference.confidence:.0%} interval {difference.low:+.4f} to {difference.high:+.4f}"
    )
    if difference.high < 0:
        return "promote", (f"better: {shown}",)
    if config.margin > 0 and difference.high <= config.margin:
        return "promote", (f"not worse by more than the margin of {config.margin:g}: {shown}",)
    if difference.low > 0:
        return "reject", (f"worse: {shown}",)
    return "hold", (f"no difference can be shown: {shown}",)
