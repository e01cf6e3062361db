"""Validated documents made by hand, and contexts of several operations on one storage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pytest

from steps.common.alone import AloneContext
from steps.common.dataset import CLEAN_SCHEMA
from steps.common.parquet import parquet_bytes
from steps.common.results import ValidationResult
from workflows.log import Blobs


def url_of(name: str) -> str:
    return f"https://example.org/{name}"


def _clean_table(documents: Mapping[str, str], fetched_at: float = 1.7e9) -> pa.Table:
    rows = [
        {
            "doc_id": hashlib.sha256(url_of(name).encode()).hexdigest(),
            "url": url_of(name),
            "title": name,
            "text": text,
            "language": "en",
            "num_chars": len(text),
            "fetched_at": fetched_at,
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        for name, text in documents.items()
    ]
    return pa.Table.from_pylist(rows, schema=CLEAN_SCHEMA)


def _validation(
    blobs: Blobs, documents: Mapping[str, str], removed: Sequence[str] = (), *, fetched_at: float = 1.7e9
) -> ValidationResult:
    refs = (blobs.put(parquet_bytes(_clean_table(documents, fetched_at))),) if documents else ()
    return ValidationResult(
        documents=refs,
        rejects=(),
        removed=tuple(map(url_of, removed)),
        num_in=len(documents),
        num_accepted=len(documents),
        rejected={},
        masked={},
    )


@pytest.fixture
def clean_table() -> Callable[..., pa.Table]:
    """Makes accepted documents: `clean_table({name: text}, fetched_at)`."""
    return _clean_table


@pytest.fixture
def make_validation() -> Callable[..., ValidationResult]:
    """Makes what validation gives: `make_validation(blobs, {name: text}, removed_names)`."""
    return _validation


@pytest.fixture
def operation(storage: str) -> Iterator[Callable[..., AloneContext]]:
    """Opens the context of an operation by name, with its token; `kind` may be a subclass of the context."""
    with ExitStack() as stack:

        def make(name: str, kind: Callable[..., Any] = AloneContext) -> AloneContext:
            context: AloneContext = stack.enter_context(kind(storage, step="version", inputs=name))
            return context

        yield make
