from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.deploy.text_stream import HALF_CHARACTER, TextStream


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", "replace")


def stream(text: str, stop: Sequence[str] = ()) -> tuple[list[str], TextStream]:
    made = TextStream(decode, b"prompt", stop)
    parts = []
    for byte in text.encode():
        parts.append(made.push(byte))
        if made.stopped:
            break
    parts.append(made.finish())
    return parts, made


@given(st.text())
def test_the_parts_join_to_the_text(text: str) -> None:
    assert "".join(stream(text)[0]) == text


@given(
    st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1).filter(
        lambda t: HALF_CHARACTER not in t
    )
)
def test_no_part_holds_half_a_character(text: str) -> None:
    assert not any(HALF_CHARACTER in part for part in stream(text)[0])


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_answer_ends_before_the_stop_text_that_is_complete_first(text: str, stop: list[str]) -> None:
    ends = [text.find(each) + len(each) for each in stop if each in text]
    parts, made = stream(text, stop)
    assert made.stopped == bool(ends)
    if not ends:
        assert "".join(parts) == text
    else:
        starts = [text.find(each) for each in stop if each in text and text.find(each) + len(each) == min(ends)]
        assert "".join(parts) == text[: min(starts)]


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_not_one() -> None:
    made = TextStream(decode, b"", ["END"])
    assert [made.push(byte) for byte in b"xENxEN"] == ["x", "", "", "ENx", "", ""]
    assert made.finish() == "EN"


@pytest.mark.parametrize("stop", [[""], []])
def test_an_empty_stop_text_stops_nothing(stop: list[str]) -> None:
    assert "".join(stream("abc", stop)[0]) == "abc"


def test_bytes_that_never_make_a_character_are_shown_in_the_end() -> None:
    made = TextStream(decode, b"")
    shown = "".join(made.push(0x80) for _ in range(40)) + made.finish()
    assert len(shown) == 40
