"""The Ray Data sink: merges rows into the buckets they belong to, and writes the buckets that change as blobs.

It commits nothing. What it wrote is named by no log until the caller appends the manifest; if it fails, its blobs are
left for the garbage collector.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasink
from ray.data.datasource import WriteResult

from steps.common.dataset import CLEAN_SCHEMA, DATASET_SCHEMA
from steps.common.parquet import MEDIA_TYPE, parquet_bytes, parquet_table
from steps.version.manifest import BucketFile
from steps.version.merge import merge
from workflows.log import Blobs, failpoint

logger = logging.getLogger(__name__)

ROUTED_SCHEMA = pa.schema([*CLEAN_SCHEMA, pa.field("removed", pa.bool_()), pa.field("bucket", pa.int32())])
"""Documents on their way to their bucket; of those with `removed`, only `doc_id` means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketChange:
    """What became of a bucket: its file now (None if it is empty), and how many rows changed against the parent's."""

    bucket: int
    file: BucketFile | None
    num_added: int
    num_changed: int
    num_removed: int


class BucketSink(Datasink[list[BucketChange]]):  # type: ignore[misc] # Ray is not followed
    """Merges blocks of `ROUTED_SCHEMA` into buckets. All rows of a bucket must come in one block."""

    def __init__(self, blobs: Blobs, parent: Mapping[int, BucketFile], heldout_fraction: float) -> None:
        self.blobs = blobs
        self.parent = parent
        self.heldout_fraction = heldout_fraction
        self.changes: list[BucketChange] = []

    def on_write_start(self, schema: pa.Schema | None = None) -> None:
        """Prepares nothing: blobs have no staging area."""

    def write(self, blocks: Iterable[Any], ctx: Any) -> list[BucketChange]:  # noqa: ARG002 - Ray's interface
        """Runs on a worker: merges and writes the buckets of the blocks."""
        rows = pa.concat_tables([ROUTED_SCHEMA.empty_table(), *(block.cast(ROUTED_SCHEMA) for block in blocks)])
        return [self._write_bucket(bucket, rows) for bucket in sorted(pc.unique(rows["bucket"]).to_pylist())]

    def on_write_complete(self, write_result: WriteResult[list[BucketChange]]) -> None:
        """Runs on the driver: keeps what the workers wrote, in bucket order."""
        returned = [change for changes in write_result.write_returns for change in changes]
        self.changes = sorted(returned, key=lambda change: change.bucket)

    def on_write_failed(self, error: Exception) -> None:
        """Leaves what was written: no log names it, and a re-run finds the same bytes there."""
        logger.warning("writing buckets failed; their blobs are left for the next attempt: %s", error)

    def _write_bucket(self, bucket: int, rows: pa.Table) -> BucketChange:
        rows = rows.filter(pc.equal(rows["bucket"], bucket))
        incoming = rows.filter(pc.invert(rows["removed"])).select(CLEAN_SCHEMA.names).cast(CLEAN_SCHEMA)
        removed = rows.filter(rows["removed"])["doc_id"].to_pylist()
        file = self.parent.get(bucket)
        before = DATASET_SCHEMA.empty_table()
        if file is not None:
            before = parquet_table(self.blobs.get(file.ref)).cast(DATASET_SCHEMA)
        merged = merge(before, incoming, removed, self.heldout_fraction)
        if not merged.is_unchanged:
            file = self._write_file(bucket, merged.table)
        return BucketChange(
            bucket=bucket,
            file=file,
            num_added=merged.num_added,
            num_changed=merged.num_changed,
            num_removed=merged.num_removed,
        )

    def _write_file(self, bucket: int, table: pa.Table) -> BucketFile | None:
        if not table.num_rows:
            return None
        ref = self.blobs.put(parquet_bytes(table), MEDIA_TYPE)
        failpoint("version.bucket.after-write")
        return BucketFile(
            bucket=bucket,
            sha256=ref.sha256,
            num_bytes=ref.size,
            num_rows=table.num_rows,
            num_heldout=pc.sum(pc.equal(table["split"], "heldout")).as_py(),
        )
