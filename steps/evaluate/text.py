"""Whether a text is degenerate: pure, on token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Fault = Literal["empty", "one token", "repetition"]

NGRAM = 3


def repetition(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of n-grams that occurred before in the text: 0 when none repeats (Welleck et al. 2019, seq-rep-n)."""
    grams = [tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def fault(ids: Sequence[int], text: str, max_repetition: float) -> Fault | None:
    """What is wrong with an answer, or None."""
    if not text.strip():
        return "empty"
    if len(ids) > NGRAM and len(set(ids)) == 1:
        return "one token"
    if repetition(ids) > max_repetition:
        return "repetition"
    return None
