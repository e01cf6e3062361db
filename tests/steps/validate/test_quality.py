"""Quality rules: each rejects what its paper rejects, and a document at the limit passes."""

from __future__ import annotations

import importlib
import pydoc

import pytest

from steps.common.text import normalise
from steps.validate.config import QualityLimits
from steps.validate.quality import RULES, broken_rule

SENTENCE = "The quick brown fox of the north jumps over a lazy dog and runs to the river with its friends."
PROSE = "\n".join(
    f"{SENTENCE[:-1]} on day {word}." for word in ["one", "two", "three", "four", "five", "six", "seven", "eight"]
)


def rule_of(text: str, **limits: float | None) -> str | None:
    """The rule that a text breaks with all rules off but those given."""
    off = dict.fromkeys(QualityLimits.model_fields)
    broken = broken_rule(text, "en", QualityLimits(**{**off, **limits}))
    return None if broken is None else broken.rule


def test_prose_passes_all_published_rules() -> None:
    assert (
        broken_rule(
            PROSE,
            "en",
            QualityLimits.prose().model_copy(
                update={
                    "max_repeated_5gram_chars": None,
                    "max_repeated_10gram_chars": None,
                    "max_top_2gram_chars": None,
                    "max_top_3gram_chars": None,
                    "max_top_4gram_chars": None,
                }
            ),
        )
        is None
    )


def test_every_limit_has_one_rule_of_its_name() -> None:
    assert sorted(rule.limit for rule in RULES) == sorted(QualityLimits.model_fields)


def test_a_rule_that_is_off_is_not_asked() -> None:
    assert rule_of("") is None


@pytest.mark.parametrize(
    ("limit", "value", "broken", "passing"),
    [
        ("min_words", 3, "one two", "one two three"),
        ("max_words", 2, "one two three", "one two"),
        ("min_mean_word_chars", 3, "a bb", "abc"),
        ("max_mean_word_chars", 4, "abcde", "abcd"),
        ("max_word_chars", 5, "abcdef", "abcde"),
        ("max_hashes_per_word", 0.5, "#a # b", "#a b"),
        ("max_ellipses_per_word", 0.5, "a... b\u2026", "a... b"),
        ("max_bullet_lines", 0.5, "- a\n* b\nc", "- a\nb"),
        ("max_ellipsis_lines", 0.5, "a...\nb\u2026\nc", "a...\nb"),
        ("min_alphabetic_words", 0.5, "a 1 2", "a 1"),
        ("min_stop_words", 2, "the cat the dog", "the cat and dog"),
        ("max_duplicate_lines", 0.5, "a\na\na", "a\na"),
        ("max_duplicate_line_chars", 0.4, "aaaa\naaaa", "aaaa\naa\naa\nbb"),
        ("max_top_2gram_chars", 0.5, "a b a b", "a b c d e f g a b"),
        ("max_top_3gram_chars", 0.5, "a b c a b c", "a b c d e f g h i a b c"),
        ("max_top_4gram_chars", 0.5, "a b c d a b c d", "a b c d e f g h i j k"),
        ("max_repeated_5gram_chars", 0.4, "a b c d e a b c d e", "a b c d e f g h i j"),
        ("max_repeated_10gram_chars", 0.4, "a b c d e f g h i j " * 2, "a b c d e " * 2 + "z"),
        ("max_short_lines", 0.5, "a\nb\n" + "c" * 31, "a\n" + "c" * 31),
        ("max_lines_per_word", 0.5, "a\nb\nc", "a b\nc"),
        ("min_punctuated_lines", 0.5, "a.\nb\nc", "a.\nb"),
        ("min_sentences", 2, "One. Two", 'One. "Two."'),
        ("max_lorem_ipsum", 0, "Lorem Ipsum dolor", "dolor"),
        ("max_curly_brackets", 0, "a { b", "a } b"),
        ("max_replacement_chars", 0.1, "abc\ufffd", "abcdefghi\ufffd"),
    ],
)
def test_each_rule_rejects_beyond_its_limit_and_passes_at_it(
    limit: str, value: float, broken: str, passing: str
) -> None:
    assert rule_of(broken, **{limit: value}) == limit
    assert rule_of(passing, **{limit: value}) is None


def test_stop_words_are_asked_of_english_only() -> None:
    german = "Der Hund lief schnell durch den dunklen Wald"
    limits = QualityLimits(min_words=None)
    assert broken_rule(german, "de", limits) is None
    broken = broken_rule(german, "en", limits)
    assert broken is not None
    assert (broken.rule, broken.value) == ("min_stop_words", 0)


def test_a_broken_rule_carries_its_value() -> None:
    broken = broken_rule("too short", "en", QualityLimits())
    assert broken is not None
    assert (broken.rule, broken.value) == ("min_words", 2)


def test_documentation_of_python_passes_and_prose_rules_would_throw_it_out() -> None:
    names = [
        "abc",
        "argparse",
        "ast",
        "base64",
        "bisect",
        "calendar",
        "cmd",
        "code",
        "codecs",
        "collections",
        "configparser",
        "contextlib",
        "copy",
        "csv",
        "datetime",
        "decimal",
        "difflib",
        "email",
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "getpass",
        "glob",
        "gzip",
        "hashlib",
        "heapq",
        "http",
        "io",
        "json",
        "logging",
        "mailbox",
        "numbers",
        "pathlib",
        "pickle",
        "queue",
        "random",
        "re",
        "sched",
        "shelve",
        "shutil",
        "socket",
        "statistics",
        "string",
        "textwrap",
        "types",
    ]
    texts = [
        normalise(pydoc.plain(pydoc.render_doc(importlib.import_module(name), renderer=pydoc.plaintext)))
        for name in names
    ]
    passed = sum(broken_rule(text, "en", QualityLimits()) is None for text in texts)
    passed_as_prose = sum(broken_rule(text, "en", QualityLimits.prose()) is None for text in texts)
    assert passed >= 0.6 * len(texts)
    assert passed_as_prose < 0.2 * len(texts)


def test_a_huge_text_is_measured_in_linear_time() -> None:
    assert rule_of("word " * 90_000, max_repeated_5gram_chars=0.15) == "max_repeated_5gram_chars"
