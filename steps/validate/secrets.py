"""Whether a value in `password = ...` is a secret or a word of the documentation."""

from __future__ import annotations

import math
from collections import Counter

MIN_BITS_PER_CHAR = 3.0
"""Shannon entropy above which 16 and more characters look drawn, not written (detect-secrets uses 3.0 for hex)."""


def is_random(value: str) -> bool:
    """Says whether a value looks drawn at random: letters and digits mixed, and entropy above that of words.

    Names, dotted paths and words joined by dashes, as they follow `token=` in documentation, do not.
    """
    value = value.strip("=.")
    if not (any(map(str.isdecimal, value)) and any(map(str.isalpha, value))):
        return False
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return entropy >= MIN_BITS_PER_CHAR
