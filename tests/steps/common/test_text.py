"""Normalisation of text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.common.text import decode_text, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("zero\u200bwidth\ufeff and\u00adsoft", "zerowidth andsoft"),
        ("e\u200b\u0301", "\u00e9"),
        ("a\x00b\x1bc", "abc"),
        ("one  two\tthree", "one two\tthree"),
        ("    indented = True", "    indented = True"),
        ("trailing   \nnext", "trailing\nnext"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("a\u00a0b\u3000c", "a b c"),
        ("\n\n  x\n\n", "  x"),
        ("", ""),
    ],
)
def test_text_is_brought_into_one_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_joiners_that_mean_something_stay() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert normalise(family) == family


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=200))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)


def test_invalid_bytes_become_replacement_characters() -> None:
    assert decode_text(b"caf\xe9 \xff") == "caf\ufffd \ufffd"
    assert decode_text(None) == ""
