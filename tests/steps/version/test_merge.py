"""Merging of buckets, without Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.common.dataset import CLEAN_SCHEMA, DATASET_SCHEMA
from steps.common.parquet import parquet_bytes
from steps.version.merge import bucket_of, document_id, merge, split_of

CleanTable = Callable[..., pa.Table]
EMPTY = DATASET_SCHEMA.empty_table()
IDS = [document_id(f"https://example.org/{number}") for number in range(4000)]


def names(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True))


def test_documents_are_added_changed_and_removed(clean_table: CleanTable) -> None:
    first = merge(EMPTY, clean_table({"a": "1", "b": "1", "c": "1"}), [], 0.5)
    assert (first.num_added, first.num_changed, first.num_removed) == (3, 0, 0)
    second = merge(first.table, clean_table({"b": "2", "d": "1"}), [document_id("https://example.org/c")], 0.5)
    assert (second.num_added, second.num_changed, second.num_removed) == (1, 1, 1)
    assert names(second.table) == {"a": "1", "b": "2", "d": "1"}
    assert second.table.schema == DATASET_SCHEMA
    assert second.table["doc_id"].to_pylist() == sorted(second.table["doc_id"].to_pylist())


def test_the_same_document_fetched_again_changes_nothing(clean_table: CleanTable) -> None:
    first = merge(EMPTY, clean_table({"a": "1"}, 1e9), [], 0.5)
    second = merge(first.table, clean_table({"a": "1"}, 2e9), [], 0.5)
    assert second.is_unchanged
    assert second.table.equals(first.table)


def test_a_document_that_is_removed_and_arrives_stays(clean_table: CleanTable) -> None:
    gone = [document_id("https://example.org/a")]
    first = merge(EMPTY, clean_table({"a": "1"}), gone, 0.5)
    assert names(first.table) == {"a": "1"}
    assert merge(first.table, clean_table({"a": "1"}), gone, 0.5).is_unchanged


def test_removing_what_is_not_there_changes_nothing(clean_table: CleanTable) -> None:
    assert merge(EMPTY, CLEAN_SCHEMA.empty_table(), ["0" * 64], 0.5).is_unchanged


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_one_document_twice_the_last_fetched_counts(clean_table: CleanTable, order: tuple[int, int]) -> None:
    tables = [clean_table({"a": "old"}, 1e9), clean_table({"a": "new"}, 2e9)]
    merged = merge(EMPTY, pa.concat_tables([tables[index] for index in order]), [], 0.5)
    assert names(merged.table) == {"a": "new"}


def test_equal_rows_give_equal_bytes_however_they_came(clean_table: CleanTable) -> None:
    at_once = merge(EMPTY, clean_table({"a": "1", "b": "2", "c": "3"}), [], 0.5).table
    step_by_step = EMPTY
    for documents in ({"c": "3"}, {"b": "0", "x": "9"}, {"a": "1", "b": "2"}):
        step_by_step = merge(step_by_step, clean_table(documents), [], 0.5).table
    step_by_step = merge(step_by_step, CLEAN_SCHEMA.empty_table(), [document_id("https://example.org/x")], 0.5).table
    assert parquet_bytes(at_once) == parquet_bytes(step_by_step)


OPERATIONS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y", "z"]), max_size=5),
        st.sets(st.sampled_from("abcdefgh"), max_size=4),
    ),
    max_size=8,
)


@given(OPERATIONS)
def test_any_history_ends_as_a_dict_would(history: list[tuple[dict[str, str], set[str]]]) -> None:
    from_url = "https://example.org/{}".format

    def table(documents: dict[str, str]) -> pa.Table:
        rows = [
            {
                "doc_id": document_id(from_url(name)), "url": from_url(name), "title": name, "text": text,
                "language": "en", "num_chars": 1, "fetched_at": 1.0,
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            }
            for name, text in documents.items()
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=CLEAN_SCHEMA)

    model: dict[str, str] = {}
    rows = EMPTY
    for documents, removed in history:
        before = dict(model)
        for name in removed - documents.keys():
            model.pop(name, None)
        model |= documents
        merged = merge(rows, table(documents), {document_id(from_url(name)) for name in removed}, 0.3)
        rows = merged.table
        assert names(rows) == model
        assert merged.num_added == len(model.keys() - before.keys())
        assert merged.num_removed == len(before.keys() - model.keys())
        assert merged.num_changed == sum(before[name] != model[name] for name in before.keys() & model.keys())
    assert rows["split"].to_pylist() == [split_of(doc_id, 0.3) for doc_id in rows["doc_id"].to_pylist()]


def test_the_split_has_the_asked_share_and_never_moves() -> None:
    heldout = [doc_id for doc_id in IDS if split_of(doc_id, 0.1) == "heldout"]
    assert 0.08 < len(heldout) / len(IDS) < 0.12
    # Written down: a change of the hash would move documents between training and judgement.
    assert [split_of(doc_id, 0.1) for doc_id in IDS[:12]] == EXPECTED_SPLITS
    assert [bucket_of(doc_id, 16) for doc_id in IDS[:12]] == EXPECTED_BUCKETS


def test_nothing_is_held_out_at_zero() -> None:
    assert {split_of(doc_id, 0.0) for doc_id in IDS} == {"train"}


def test_buckets_fill_evenly_and_hold_both_sides_of_the_split() -> None:
    for bucket in range(8):
        members = [doc_id for doc_id in IDS if bucket_of(doc_id, 8) == bucket]
        assert 400 < len(members) < 600
        assert 0.05 < sum(split_of(doc_id, 0.1) == "heldout" for doc_id in members) / len(members) < 0.16


EXPECTED_SPLITS = [*["train"] * 8, "heldout", *["train"] * 3]
EXPECTED_BUCKETS = [13, 14, 1, 4, 6, 4, 13, 11, 13, 5, 9, 0]
