"""Crawled documents made by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from steps.common.parquet import parquet_bytes
from steps.common.results import RAW_DOCUMENTS, CrawlResult
from workflows.log import Blobs

RAW_SCHEMA = pa.schema([(name, pa.float64() if name == "fetched_at" else pa.string()) for name in RAW_DOCUMENTS])


def _row(name: str, text: str | None, **others: Any) -> dict[str, Any]:
    url = f"https://example.org/{name}"
    row = {
        "doc_id": hashlib.sha256(url.encode()).hexdigest(),
        "url": url,
        "title": name,
        "text": text,
        "content_type": "text/html",
        "fetched_at": 1.7e9,
        "text_sha256": hashlib.sha256((text or "").encode()).hexdigest(),
    }
    return row | others


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=RAW_SCHEMA)


def _crawl(blobs: Blobs, batches: Iterable[Sequence[Mapping[str, Any]]], removed: Sequence[str] = ()) -> CrawlResult:
    batches = list(batches)
    num_rows = sum(map(len, batches))
    return CrawlResult(
        source="test",
        documents=tuple(blobs.put(parquet_bytes(_table(batch))) for batch in batches),
        removed=tuple(removed),
        num_fetched=num_rows,
        num_changed=num_rows,
        num_unchanged=0,
        num_bytes=0,
        rejected={},
        seconds=0.0,
    )


def _prose(seed: str) -> str:
    """An English text that passes all rules, and that no other seed has."""
    return (
        f"Everybody who has worked with {seed} knows that patience matters more than strength.\n"
        "The oldest workshops of the valley still keep their tools in wooden boxes, sorted by size and by age.\n"
        f"When winter comes, families sit together and repair what broke, and {seed} is on every table.\n"
        "Children learn to listen first, then to ask, and only after some months to touch anything themselves.\n"
        "Travellers have described these evenings in letters, many of which can be read in the town library.\n"
        "Nobody agrees about which letter is the earliest, because most carry no date at all."
    )


@pytest.fixture
def raw_row() -> Callable[..., dict[str, Any]]:
    """Makes one crawled row: `raw_row(name, text, **columns)`."""
    return _row


@pytest.fixture
def raw_table() -> Callable[[Sequence[Mapping[str, Any]]], pa.Table]:
    """Makes a table of crawled rows."""
    return _table


@pytest.fixture
def make_crawl() -> Callable[..., CrawlResult]:
    """Makes a crawl: `make_crawl(blobs, batches_of_rows, removed=())`."""
    return _crawl


@pytest.fixture
def prose() -> Callable[[str], str]:
    """Makes a text that passes: `prose(seed)`."""
    return _prose
