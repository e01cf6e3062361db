"""Quality rules: each a pure measure of a text, with the paper its limit comes from.

A rule's name is the key of its limit in `QualityLimits`, so that a rejection names the setting that caused it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from steps.validate.config import QualityLimits

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
"""Gopher, section A1.1."""

SHORT_LINE_CHARS = 30
"""FineWeb, section 3.6."""

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?:\s|$)")
_BULLETS = ("\u2022", "-", "*", "\u2023", "\u25e6", "\u2043")
_ELLIPSES = ("...", "\u2026")
_TERMINAL = (".", "!", "?", '"', "'")


class Text:
    """A text and the views of it that several rules share, made when first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """What stands between blanks and has a letter or digit: table bars and rulers are no words."""
        return [word for word in self.text.split() if any(map(str.isalnum, word))]

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty, without blanks around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def num_chars(self) -> int:
        """Characters, at least one, to divide by."""
        return max(len(self.text), 1)


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a document broke, and the value by which it did."""

    rule: str
    value: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A measure and the key of its limit; the key says by its prefix on which side the limit is."""

    limit: str
    measure: Callable[[Text], float]
    language: str | None = None

    def breaks(self, value: float, limit: float) -> bool:
        """Says whether the value lies beyond the limit."""
        return value < limit if self.limit.startswith("min_") else value > limit


def num_words(text: Text) -> float:
    """Number of words. Gopher, section A1.1."""
    return len(text.words)


def mean_word_chars(text: Text) -> float:
    """Mean length of the words in characters. Gopher, section A1.1."""
    return sum(map(len, text.words)) / max(len(text.words), 1)


def longest_word_chars(text: Text) -> float:
    """Length of the longest word in characters. C4's published code (there it drops the line)."""
    return max(map(len, text.words), default=0)


def hashes_per_word(text: Text) -> float:
    """Number of `#` divided by words. Gopher, section A1.1."""
    return text.text.count("#") / max(len(text.words), 1)


def ellipses_per_word(text: Text) -> float:
    """Number of ellipses divided by words. Gopher, section A1.1."""
    return sum(map(text.text.count, _ELLIPSES)) / max(len(text.words), 1)


def bullet_lines(text: Text) -> float:
    """Share of lines that start with a bullet. Gopher, section A1.1."""
    return _share(text.lines, lambda line: line.startswith(_BULLETS))


def ellipsis_lines(text: Text) -> float:
    """Share of lines that end in an ellipsis. Gopher, section A1.1."""
    return _share(text.lines, lambda line: line.endswith(_ELLIPSES))


def alphabetic_words(text: Text) -> float:
    """Share of words that have a letter. Gopher, section A1.1."""
    return _share(text.words, lambda word: any(map(str.isalpha, word)))


def stop_words(text: Text) -> float:
    """Number of different English stop words. Gopher, section A1.1."""
    return len(STOP_WORDS.intersection(map(str.lower, text.words)))


def duplicate_lines(text: Text) -> float:
    """Share of lines that were seen before. Gopher, table A1."""
    return 1 - len(set(text.lines)) / max(len(text.lines), 1)


def duplicate_line_chars(text: Text) -> float:
    """Share of characters in lines that were seen before. Gopher, table A1; FineWeb, section 3.6."""
    counts = Counter(text.lines)
    return sum(len(line) * (count - 1) for line, count in counts.items()) / text.num_chars


def top_ngram_chars(text: Text, n: int) -> float:
    """Share of characters in the most frequent n-gram, one that occurs once counting nothing. Gopher, table A1."""
    grams = Counter(zip(*(text.words[start:] for start in range(n)), strict=False))
    repeated = (_gram_chars(gram) * count for gram, count in grams.items() if count > 1)
    return min(max(repeated, default=0) / text.num_chars, 1)


def repeated_ngram_chars(text: Text, n: int) -> float:
    """Share of characters in n-grams that were seen before, overlaps counted once. Gopher, table A1."""
    words, seen, repeated, start = text.words, set[tuple[str, ...]](), 0, 0
    while start + n <= len(words):
        gram = tuple(words[start : start + n])
        if gram in seen:
            repeated += _gram_chars(gram)
            start += n
        else:
            seen.add(gram)
            start += 1
    return repeated / text.num_chars


def short_lines(text: Text) -> float:
    """Share of lines of at most 30 characters. FineWeb, section 3.6."""
    return _share(text.lines, lambda line: len(line) <= SHORT_LINE_CHARS)


def lines_per_word(text: Text) -> float:
    """Line ends divided by words. FineWeb's published code (its list filter)."""
    return text.text.count("\n") / max(len(text.words), 1)


def punctuated_lines(text: Text) -> float:
    """Share of lines that end in terminal punctuation. FineWeb, section 3.6."""
    return _share(text.lines, lambda line: line.endswith(_TERMINAL))


def num_sentences(text: Text) -> float:
    """Number of sentence ends. C4, section 2.2."""
    return sum(1 for _ in _SENTENCE_END.finditer(text.text))


def num_lorem_ipsum(text: Text) -> float:
    """How often `lorem ipsum` occurs. C4, section 2.2."""
    return text.text.lower().count("lorem ipsum")


def num_curly_brackets(text: Text) -> float:
    """How often `{` occurs. C4, section 2.2."""
    return text.text.count("{")


def replacement_chars(text: Text) -> float:
    """Share of U+FFFD. Our own: a page in another encoding than it says."""
    return text.text.count("\ufffd") / text.num_chars


def _share(items: Sequence[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, items)) / max(len(items), 1)


def _gram_chars(gram: tuple[str, ...]) -> int:
    return sum(map(len, gram)) + len(gram) - 1


RULES: tuple[Rule, ...] = (
    Rule("max_replacement_chars", replacement_chars),
    Rule("min_words", num_words),
    Rule("max_words", num_words),
    Rule("min_mean_word_chars", mean_word_chars),
    Rule("max_mean_word_chars", mean_word_chars),
    Rule("max_word_chars", longest_word_chars),
    Rule("max_hashes_per_word", hashes_per_word),
    Rule("max_ellipses_per_word", ellipses_per_word),
    Rule("max_bullet_lines", bullet_lines),
    Rule("max_ellipsis_lines", ellipsis_lines),
    Rule("min_alphabetic_words", alphabetic_words),
    Rule("min_stop_words", stop_words, language="en"),
    Rule("max_short_lines", short_lines),
    Rule("max_lines_per_word", lines_per_word),
    Rule("min_punctuated_lines", punctuated_lines),
    Rule("min_sentences", num_sentences),
    Rule("max_lorem_ipsum", num_lorem_ipsum),
    Rule("max_curly_brackets", num_curly_brackets),
    Rule("max_duplicate_lines", duplicate_lines),
    Rule("max_duplicate_line_chars", duplicate_line_chars),
    Rule("max_top_2gram_chars", partial(top_ngram_chars, n=2)),
    Rule("max_top_3gram_chars", partial(top_ngram_chars, n=3)),
    Rule("max_top_4gram_chars", partial(top_ngram_chars, n=4)),
    Rule("max_repeated_5gram_chars", partial(repeated_ngram_chars, n=5)),
    Rule("max_repeated_10gram_chars", partial(repeated_ngram_chars, n=10)),
)
"""In the order in which they are asked: cheap ones first, and the limit on words before all that grow with them."""


def broken_rule(text: str, language: str, limits: QualityLimits) -> Broken | None:
    """Returns the first rule that a text breaks, or None."""
    views = Text(text)
    for rule in RULES:
        limit = getattr(limits, rule.limit)
        if limit is None or rule.language not in (None, language):
            continue
        value = rule.measure(views)
        if rule.breaks(value, limit):
            return Broken(rule.limit, value)
    return None
