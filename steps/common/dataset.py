"""How a dataset version lies in storage, and how to read it.

A version is a list of Parquet blobs, one per bucket that has rows. A row's bucket and split follow from its `doc_id`
alone, so a document stays in its bucket and on its side of the split for the life of the dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from steps.common.parquet import parquet_table
from steps.common.results import CLEAN_DOCUMENTS, DatasetVersion
from workflows.log import BlobRef, Blobs

Split = Literal["train", "heldout"]
"""The rows a model may learn from, and those it is judged on."""

_TYPES = {"num_chars": pa.int64(), "fetched_at": pa.float64()}

CLEAN_SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.string()), nullable=False) for name in CLEAN_DOCUMENTS])
"""Accepted documents."""

DATASET_SCHEMA = CLEAN_SCHEMA.append(pa.field("split", pa.string(), nullable=False))
"""Rows of a dataset version: accepted documents and their side of the split."""


class DamagedDatasetError(Exception):
    """A dataset version whose files do not add up to its digest or its counts."""

    def __init__(self, dataset: str, reason: str) -> None:
        super().__init__(f"dataset {dataset} is damaged: {reason}")
        self.dataset = dataset
        self.reason = reason

    def __reduce__(self) -> tuple[type[DamagedDatasetError], tuple[str, str]]:
        return DamagedDatasetError, (self.dataset, self.reason)


def schema_hash(schema: pa.Schema) -> str:
    """SHA-256 over names, types and nullability, in order."""
    fields = [[field.name, str(field.type), field.nullable] for field in schema]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def content_digest(files: Sequence[BlobRef], schema: pa.Schema = DATASET_SCHEMA) -> str:
    """SHA-256 over the schema and the digests of the files in order: equal digests, equal content."""
    parts = [schema_hash(schema), *(file.sha256 for file in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def iter_tables(
    blobs: Blobs, dataset: DatasetVersion, split: Split | None = "train", columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yields one table per file of the version, in file order, each verified and sorted by `doc_id`.

    Args:
        blobs: Where the files are.
        dataset: The version to read.
        split: Rows to keep; None keeps both.
        columns: Columns to return, in this order; None returns all.

    Raises:
        DamagedDatasetError: The list of files does not match the version's digest, or a file has another schema.
        workflows.log.CorruptBlob: A file's bytes do not match its digest.
    """
    if content_digest(dataset.files) != dataset.digest:
        raise DamagedDatasetError(str(dataset), "its list of files does not match its digest")
    for ref in dataset.files:
        table = parquet_table(blobs.get(ref))
        if table.schema.names != DATASET_SCHEMA.names:
            raise DamagedDatasetError(str(dataset), f"file {ref.sha256} has columns {table.schema.names}")
        table = table.cast(DATASET_SCHEMA)
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        yield table if columns is None else table.select(list(columns))


def read_table(
    blobs: Blobs, dataset: DatasetVersion, split: Split | None = "train", columns: Sequence[str] | None = None
) -> pa.Table:
    """Reads one side of a version into memory, verified and sorted by `doc_id`; otherwise like `iter_tables`.

    Raises:
        DamagedDatasetError: Also if the number of rows is not the recorded one.
    """
    wanted = None if columns is None else list(dict.fromkeys(["doc_id", *columns]))
    schema = DATASET_SCHEMA if wanted is None else pa.schema([DATASET_SCHEMA.field(name) for name in wanted])
    table = pa.concat_tables([schema.empty_table(), *iter_tables(blobs, dataset, split, wanted)])
    recorded = {"train": dataset.num_train, "heldout": dataset.num_heldout}
    expected = sum(recorded.values()) if split is None else recorded[split]
    if table.num_rows != expected:
        raise DamagedDatasetError(str(dataset), f"{table.num_rows} rows of split {split or 'any'}, not {expected}")
    table = table.sort_by("doc_id").combine_chunks()
    return table if columns is None else table.select(list(columns))
