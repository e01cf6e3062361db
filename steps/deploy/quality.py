"""What makes an answer bad, apart from I/O: the metrics that a rollout is judged by."""

from __future__ import annotations

import zlib

from steps.common.releases import Limits

SHARES = {"failed": 1 / 2, "slow": 1 / 6, "degenerate": 1 / 6, "implausible": 1 / 6}
"""The metrics, and the part of alpha that each gets.

`failed`: an error, or a broken stream. `slow`: late first token, or slow tokens. `degenerate`: empty or repetitive.
`implausible`: the champion finds the answer unlikely. Failures get half, because with equal parts 1 -> 5 % failures are
found in fewer rollouts (tests/bench/canary.py)."""

MIN_REPETITION_BYTES = 200
"""Shorter answers are too short to be called repetitive."""

MAX_COMPRESSION = 5.0
"""English prose of this length compresses 1.3 to 2 times with zlib; above 5 hardly anything but a loop does."""


def defects(
    *,
    failed: bool,
    ttft_s: float | None,
    tpot_s: float | None,
    answer: str,
    nats_per_byte: float | None,
    limits: Limits,
) -> tuple[str, ...]:
    """Gives the metrics by which an answer is bad.

    Args:
        failed: It ended in an error.
        ttft_s: Seconds to the first token.
        tpot_s: Mean seconds per further token.
        answer: Its text.
        nats_per_byte: Its score under the champion, if it was scored.
        limits: What counts as slow or implausible.
    """
    if failed:
        return ("failed",)
    found = []
    if _above(ttft_s, limits.ttft_s) or _above(tpot_s, limits.tpot_s):
        found.append("slow")
    if degenerate(answer):
        found.append("degenerate")
    if _above(nats_per_byte, limits.nats_per_byte):
        found.append("implausible")
    return tuple(found)


def degenerate(answer: str) -> bool:
    """Tells whether an answer is empty or goes in circles."""
    if not answer.strip():
        return True
    data = answer.encode("utf-8", "surrogatepass")
    return len(data) >= MIN_REPETITION_BYTES and len(data) / len(zlib.compress(data, 6)) > MAX_COMPRESSION


def _above(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit
