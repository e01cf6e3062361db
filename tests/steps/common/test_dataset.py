"""The reader of dataset versions, and Parquet as content."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from steps.common.dataset import DATASET_SCHEMA, DamagedDatasetError, content_digest, iter_tables, read_table
from steps.common.parquet import parquet_bytes, parquet_table
from steps.common.results import DatasetVersion
from workflows.log import Blobs, CorruptBlob, open_store


def rows(*names: str) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "doc_id": name, "url": name, "title": name, "text": name, "language": "en", "num_chars": 1,
                "fetched_at": 1.0, "text_sha256": name, "split": "heldout" if name in "ae" else "train",
            }
            for name in names
        ],
        schema=DATASET_SCHEMA,
    )  # fmt: skip


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(open_store(str(tmp_path)))


@pytest.fixture
def dataset(blobs: Blobs) -> DatasetVersion:
    files = tuple(blobs.put(parquet_bytes(table)) for table in (rows("b", "d", "e"), rows("a", "c")))
    return DatasetVersion(
        name="corpus", version=1, digest=content_digest(files), files=files, num_train=3, num_heldout=2,
        num_bytes=sum(file.size for file in files), num_added=5, num_changed=0, num_removed=0,
    )  # fmt: skip


def test_each_side_of_the_split_is_read_in_order_of_ids(blobs: Blobs, dataset: DatasetVersion) -> None:
    assert read_table(blobs, dataset)["doc_id"].to_pylist() == ["b", "c", "d"]
    assert read_table(blobs, dataset, "heldout")["doc_id"].to_pylist() == ["a", "e"]
    assert read_table(blobs, dataset, None)["doc_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert read_table(blobs, dataset).schema == DATASET_SCHEMA


def test_columns_come_as_asked(blobs: Blobs, dataset: DatasetVersion) -> None:
    assert read_table(blobs, dataset, columns=["text", "url"]).column_names == ["text", "url"]
    assert read_table(blobs, dataset, columns=["text"])["text"].to_pylist() == ["b", "c", "d"]


def test_files_are_read_one_by_one(blobs: Blobs, dataset: DatasetVersion) -> None:
    assert [table["doc_id"].to_pylist() for table in iter_tables(blobs, dataset)] == [["b", "d"], ["c"]]


def test_a_side_without_rows_is_an_empty_table(blobs: Blobs) -> None:
    file = blobs.put(parquet_bytes(rows("b")))
    dataset = DatasetVersion(
        name="corpus", version=1, digest=content_digest([file]), files=(file,), num_train=1, num_heldout=0,
        num_bytes=file.size, num_added=1, num_changed=0, num_removed=0,
    )  # fmt: skip
    assert read_table(blobs, dataset, "heldout", ["text"]).num_rows == 0


def test_a_version_that_does_not_add_up_is_refused(blobs: Blobs, dataset: DatasetVersion) -> None:
    with pytest.raises(DamagedDatasetError, match="list of files"):
        read_table(blobs, replace(dataset, files=dataset.files[:1]))
    with pytest.raises(DamagedDatasetError, match="3 rows of split train, not 4"):
        read_table(blobs, replace(dataset, num_train=4))
    foreign = blobs.put(parquet_bytes(pa.table({"x": [1]})))
    with pytest.raises(DamagedDatasetError, match="columns"):
        read_table(blobs, replace(dataset, files=(foreign,), digest=content_digest([foreign])))


def test_a_changed_file_is_noticed(blobs: Blobs, dataset: DatasetVersion) -> None:
    blobs.store.put(blobs.key(dataset.files[0].sha256), parquet_bytes(rows("x")))
    with pytest.raises(CorruptBlob):
        read_table(blobs, dataset)


def test_the_error_pickles() -> None:
    error = DamagedDatasetError("corpus@v1", "reason")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_equal_rows_give_equal_bytes_whatever_their_chunks() -> None:
    whole = rows("a", "b", "c")
    chunked = pa.concat_tables([rows("a"), rows("b", "c")]).replace_schema_metadata({"who": "knows"})
    assert parquet_bytes(whole) == parquet_bytes(chunked)
    assert parquet_table(parquet_bytes(whole)).cast(DATASET_SCHEMA).equals(whole)
