"""Cleaning of one batch, without Ray."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from steps.common.dataset import CLEAN_SCHEMA
from steps.validate.cleaning import accepted_rows, check_columns, clean, mark_duplicates, rejected_rows
from steps.validate.config import QualityLimits, ValidateConfig
from steps.validate.errors import UnreadableCrawlError

Row = Callable[..., dict[str, Any]]
Table = Callable[[list[dict[str, Any]]], pa.Table]
Prose = Callable[[str], str]

GERMAN = "Der Hund l\u00e4uft durch den Wald und sucht nach einem Knochen, den er gestern dort vergraben hat."


def test_a_good_document_is_normalised_and_accepted(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    text = prose("tea").replace("\n", "\r\n") + "\u00a0\x00\r\n\r\n"
    (row,) = accepted_rows(clean(raw_table([raw_row("a", text, title="Caf\u00e9\x07")]), ValidateConfig())).to_pylist()
    assert row["text"] == prose("tea")
    assert row["title"] == "Caf\u00e9"
    assert row["language"] == "en"
    assert row["num_chars"] == len(prose("tea"))
    assert row["text_sha256"] == hashlib.sha256(prose("tea").encode()).hexdigest()


def test_accepted_rows_have_the_schema_of_clean_documents(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    assert accepted_rows(clean(raw_table([raw_row("a", prose("x"))]), ValidateConfig())).schema == CLEAN_SCHEMA


def test_rejected_rows_keep_rule_and_value(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    rows = [raw_row("short", "too short to learn from"), raw_row("german", GERMAN), raw_row("good", prose("ice"))]
    rejects = rejected_rows(clean(raw_table(rows), ValidateConfig())).to_pylist()
    assert [(row["url"].rpartition("/")[2], row["rule"], row["value"]) for row in rejects] == [
        ("short", "min_words", "5"),
        ("german", "language", "de"),
    ]
    assert rejects[0]["text"] == "too short to learn from"


def test_all_languages_pass_when_none_is_named(raw_row: Row, raw_table: Table) -> None:
    config = ValidateConfig(languages=(), quality=QualityLimits(min_words=5))
    assert accepted_rows(clean(raw_table([raw_row("german", GERMAN)]), config))["language"].to_pylist() == ["de"]


def test_personal_data_is_masked_in_accepted_and_in_rejected_rows(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    good = prose("soap") + "\nWrite to jane@example.org or call +49 30 12345678."
    judged = clean(
        raw_table([raw_row("good", good, title="by joe@example.org"), raw_row("bad", "joe@example.org")]),
        ValidateConfig(),
    )
    assert "@" not in "".join(judged["text"].to_pylist() + judged["title"].to_pylist())
    assert json.loads(judged["masked"][0].as_py()) == {"email": 2, "phone": 1}
    (digest,) = accepted_rows(judged)["text_sha256"].to_pylist()
    assert digest == hashlib.sha256(judged["text"][0].as_py().encode()).hexdigest()


def test_masking_can_be_turned_off(raw_row: Row, raw_table: Table) -> None:
    judged = clean(raw_table([raw_row("a", "joe@example.org")]), ValidateConfig(mask_personal_data=False))
    assert judged["text"].to_pylist() == ["joe@example.org"]


def test_invalid_bytes_reject_the_page_and_nothing_else(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    table = raw_table([raw_row("good", prose("wool")), raw_row("bad", "")])
    broken = pa.array([prose("wool").encode(), b"\xff\xfe\x80 latin caf\xe9 " * 60], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, broken.buffers())
    judged = clean(table.set_column(table.schema.get_field_index("text"), "text", broken), ValidateConfig(languages=()))
    assert judged["rule"].to_pylist() == ["", "max_replacement_chars"]


def test_rows_that_break_the_schema_are_set_apart_with_check_and_value(
    raw_row: Row, raw_table: Table, prose: Prose
) -> None:
    rows = [
        raw_row("good", prose("a")),
        raw_row("bad-id", prose("b"), doc_id="17"),
        raw_row("no-url", prose("c"), url=None),
        raw_row("bad-url", prose("d"), url="/relative"),
        raw_row("no-time", prose("e"), fetched_at=None),
        raw_row("nan-time", prose("f"), fetched_at=float("nan")),
        raw_row("old", prose("g"), fetched_at=-1.0),
    ]
    judged = clean(raw_table(rows), ValidateConfig())
    assert list(zip(judged["rule"].to_pylist(), judged["value"].to_pylist(), strict=True)) == [
        ("", ""),
        ("schema:doc_id:str_matches", "17"),
        ("schema:url:not_nullable", "None"),
        ("schema:url:str_matches", "/relative"),
        ("schema:fetched_at:not_nullable", "None"),
        ("schema:fetched_at:not_nullable", "nan"),
        ("schema:fetched_at:greater_than", "-1.0"),
    ]


def test_missing_text_and_title_are_empty(raw_row: Row, raw_table: Table) -> None:
    judged = clean(raw_table([raw_row("a", None, title=None)]), ValidateConfig(languages=()))
    assert (judged["rule"][0].as_py(), judged["title"][0].as_py()) == ("min_words", "")


def test_an_empty_batch_stays_empty(raw_table: Table) -> None:
    assert clean(raw_table([]), ValidateConfig()).num_rows == 0


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UnreadableCrawlError, match="no column url"):
        check_columns(
            "abc",
            pa.table(
                {
                    "doc_id": ["x"],
                    "title": [""],
                    "text": [""],
                    "content_type": [""],
                    "fetched_at": [0.0],
                    "text_sha256": [""],
                }
            ),
        )


def test_of_equal_texts_the_lowest_url_stays_in_any_order(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    rows = [raw_row(name, prose("same"), fetched_at=2e9 - index) for index, name in enumerate(["a", "b", "c", "d"])]
    rows += [raw_row("other", prose("other")), raw_row("short", "short"), raw_row("short2", "short")]
    outcomes = []
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        judged = mark_duplicates(clean(raw_table(rows), ValidateConfig()))
        outcomes.append(judged)
        assert {url.rpartition("/")[2] for url in accepted_rows(judged)["url"].to_pylist()} == {"a", "other"}
        duplicates = [row for row in rejected_rows(judged).to_pylist() if row["rule"] == "duplicate"]
        assert {row["value"] for row in duplicates} == {"https://example.org/a"}
        assert len(duplicates) == 3
    assert all(outcome.equals(outcomes[0]) for outcome in outcomes)


def test_texts_that_differ_only_in_masked_data_are_duplicates(raw_row: Row, raw_table: Table, prose: Prose) -> None:
    rows = [raw_row(name, f"{prose('same')}\n{name}@example.org") for name in ("a", "b")]
    judged = mark_duplicates(clean(raw_table(rows), ValidateConfig()))
    assert sorted(judged["rule"].to_pylist()) == ["", "duplicate"]
