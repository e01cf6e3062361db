"""Commits accepted documents as an immutable version of a dataset.

Takes what validation accepted and what must go; gives a version: a record of the log `datasets/<name>` that names
content-addressed Parquet files, one per bucket of documents. Buckets that do not change are shared with the version
before. A re-run is safe: blobs come first and are named by their content, the record comes last and carries the step's
token, and `append` writes no second record with the same token.

    python -m steps.version run --storage /tmp/el --inputs validation.json --set name=corpus
    python -m steps.version list | show V | diff A B | tag V NAME | gc [--dry-run]    --storage /tmp/el [--name corpus]
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from steps.common.context import StepContext
from steps.common.dataset import DATASET_SCHEMA, content_digest, schema_hash
from steps.common.ray_data import gather, num_blocks, quiet_ray_data
from steps.common.results import DatasetVersion, ValidationResult
from steps.version.config import VersionConfig
from steps.version.errors import ContendedDatasetError, EmptyDatasetError, FixedSettingError, ParentChanged
from steps.version.manifest import BucketFile, DatasetState, Manifest, Settings, in_order, open_dataset
from workflows.log import BlobRef, Blobs, Draft, Log, failpoint

if TYPE_CHECKING:
    import pyarrow as pa

    from steps.version.sink import BucketChange

logger = logging.getLogger(__name__)

IDS_PER_BLOCK = 10_000
"""Removed documents that travel as one item of the plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """A merge that is not committed: the version it was made with, and what became of the buckets it touched."""

    parent: Manifest | None
    changes: Mapping[int, BucketChange]


def run(config: VersionConfig, validation: ValidationResult, ctx: StepContext) -> DatasetVersion:
    """Makes the version that follows from a validation, or returns the one there is.

    Returns:
        The new version; the version that this step made before, if it was run before; or the latest version, if the
        documents change nothing.

    Raises:
        FixedSettingError: A setting differs from what the dataset was made with.
        EmptyDatasetError: No document would be left.
        ContendedDatasetError: Others committed to the dataset during each of `max_attempts` merges.
    """
    log = open_dataset(ctx.store, config.name)
    made = log.refresh().made_by(ctx.token)
    if made is not None:
        return made.result(config.name)
    _check_settings(config, log.state)
    if not validation.documents and (not validation.removed or log.state.latest is None):
        return _latest(config, validation, log.state)
    merged = Merge(parent=None, changes={})
    for attempt in range(config.max_attempts):
        parent = log.refresh().latest
        wanted = None if attempt == 0 else _outdated(merged, parent)
        changed = _merge_buckets(config, validation, parent, wanted, ctx)
        merged = Merge(parent=parent, changes={**merged.changes, **changed})
        manifest = _manifest(validation, merged, ctx)
        if parent is not None and manifest.digest == parent.digest:
            return parent.result(config.name)
        if not manifest.files:
            raise EmptyDatasetError(config.name, validation.num_in, manifest.num_removed)
        try:
            return _commit(config, manifest, log, ctx)
        except ParentChanged as refusal:
            logger.info("%s; merging again", refusal)
    raise ContendedDatasetError(config.name, config.max_attempts)


def settings_of(config: VersionConfig) -> Settings:
    """Returns the settings that the first record of a dataset fixes."""
    return Settings(
        heldout_fraction=config.heldout_fraction, num_buckets=config.num_buckets, schema=schema_hash(DATASET_SCHEMA)
    )


def _check_settings(config: VersionConfig, state: DatasetState) -> None:
    asked = asdict(settings_of(config))
    fixed = asked if state.settings is None else asdict(state.settings)
    for key, value in asked.items():
        if fixed[key] != value:
            raise FixedSettingError(config.name, key, fixed[key], value)


def _latest(config: VersionConfig, validation: ValidationResult, state: DatasetState) -> DatasetVersion:
    if state.latest is None:
        raise EmptyDatasetError(config.name, validation.num_in, 0)
    return state.latest.result(config.name)


def _outdated(merged: Merge, parent: Manifest | None) -> frozenset[int]:
    """Returns the buckets that were merged with a file that is not the parent's any more."""
    before, now = _files(merged.parent), _files(parent)
    return frozenset(bucket for bucket in merged.changes if before.get(bucket) != now.get(bucket))


def _files(manifest: Manifest | None) -> dict[int, BucketFile]:
    return {} if manifest is None else {file.bucket: file for file in manifest.files}


def _commit(config: VersionConfig, manifest: Manifest, log: Log[DatasetState], ctx: StepContext) -> DatasetVersion:
    ctx.fence()
    # The blobs are durable; from here on one record decides whether the version exists.
    failpoint("version.commit.before-record")
    _create(config, log)
    log.append(functools.partial(_decide, config.name, manifest))
    failpoint("version.commit.after-record")
    made = log.state.made_by(manifest.operation)
    if made is None:
        raise AssertionError(f"operation {manifest.operation} was appended and is not in the log of {config.name}")
    result = made.result(config.name)
    if config.heldout_fraction and not result.num_heldout:
        logger.warning("%s has no held-out document: too few documents for that fraction", result)
    return result


def _create(config: VersionConfig, log: Log[DatasetState]) -> None:
    """Fixes the settings by the first record, unless that was done."""
    settings = {"settings": asdict(settings_of(config))}
    log.append(lambda state: Draft("created", settings) if state.settings is None else None)
    _check_settings(config, log.state)


def _decide(dataset: str, manifest: Manifest, state: DatasetState) -> Draft | None:
    """Says what to append: nothing if the operation is there, no version that was merged with another parent."""
    if state.made_by(manifest.operation) is not None:
        return None
    if state.num_versions != manifest.parent:
        raise ParentChanged(dataset, manifest.parent, state.num_versions)
    return Draft("version", manifest.dump())


def _manifest(validation: ValidationResult, merged: Merge, ctx: StepContext) -> Manifest:
    parent, changes = merged.parent, merged.changes
    files = _files(parent)
    for bucket, change in changes.items():
        if change.file is None:
            files.pop(bucket, None)
        else:
            files[bucket] = change.file
    ordered = in_order(files.values())
    version = 0 if parent is None else parent.version
    return Manifest(
        version=version + 1,
        parent=version,
        operation=ctx.token,
        schema=schema_hash(DATASET_SCHEMA),
        digest=content_digest([file.ref for file in ordered]),
        files=ordered,
        num_added=sum(change.num_added for change in changes.values()),
        num_changed=sum(change.num_changed for change in changes.values()),
        num_removed=sum(change.num_removed for change in changes.values()),
        lineage={
            "run_id": ctx.run_id,
            "step_id": ctx.step_id,
            "documents": [ref.sha256 for ref in validation.documents],
            "rejects": [ref.sha256 for ref in validation.rejects],
            "num_in": validation.num_in,
            "num_accepted": validation.num_accepted,
            "rejected": dict(validation.rejected),
            "masked": dict(validation.masked),
        },
    )


def _merge_buckets(
    config: VersionConfig,
    validation: ValidationResult,
    parent: Manifest | None,
    wanted: frozenset[int] | None,
    ctx: StepContext,
) -> dict[int, BucketChange]:
    """Runs the Ray Data plan: send rows and removals to their buckets, merge with the parent's, write what changes.

    Args:
        wanted: Buckets to merge; None for all that rows belong to.
    """
    if wanted is not None and not wanted:
        return {}
    import ray.data
    from ray.data import TaskPoolStrategy

    from steps.version.sink import BucketSink

    items = _items(validation)
    num_rows = validation.num_accepted + len(validation.removed)
    num_tasks = num_blocks(num_rows, config.rows_per_task, most=min(len(items), config.num_buckets))
    num_workers = min(config.num_workers, num_tasks)
    sink = BucketSink(ctx.blobs, _files(parent), config.heldout_fraction)
    ctx.progress(0, num_rows, "merging")
    with quiet_ray_data():
        routed = ray.data.from_items(items, override_num_blocks=num_tasks).map_batches(
            functools.partial(_route, blobs=ctx.blobs, num_buckets=config.num_buckets, wanted=wanted),
            batch_format="pyarrow",
            batch_size=1,
            num_cpus=1,
            compute=TaskPoolStrategy(num_workers),
        )
        gather(routed, "bucket", num_tasks).write_datasink(
            sink, ray_remote_args={"num_cpus": 1}, concurrency=num_workers
        )
    ctx.progress(num_rows, num_rows, "merged")
    return {change.bucket: change for change in sink.changes}


def _items(validation: ValidationResult) -> list[dict[str, Any]]:
    nothing: dict[str, Any] = {"sha256": "", "size": 0, "removed": []}
    documents = [{**nothing, "sha256": ref.sha256, "size": ref.size} for ref in validation.documents]
    removed: Sequence[str] = validation.removed
    return documents + [
        {**nothing, "removed": list(removed[start : start + IDS_PER_BLOCK])}
        for start in range(0, len(removed), IDS_PER_BLOCK)
    ]


def _route(items: pa.Table, *, blobs: Blobs, num_buckets: int, wanted: frozenset[int] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    from steps.common.dataset import CLEAN_SCHEMA
    from steps.common.parquet import parquet_table
    from steps.version.merge import bucket_of, document_id
    from steps.version.sink import ROUTED_SCHEMA

    documents = [CLEAN_SCHEMA.empty_table()]
    removed: list[str] = []
    for item in items.to_pylist():
        if item["sha256"]:
            documents.append(parquet_table(blobs.get(BlobRef(item["sha256"], item["size"]))).cast(CLEAN_SCHEMA))
        removed += map(document_id, item["removed"])
    rows = pa.concat_tables(documents)
    blank = {"doc_id": removed, "num_chars": [0] * len(removed), "fetched_at": [0.0] * len(removed)}
    gone = pa.table([blank.get(field.name, [""] * len(removed)) for field in CLEAN_SCHEMA], schema=CLEAN_SCHEMA)
    ids = rows["doc_id"].to_pylist() + removed
    routed = (
        pa.concat_tables([rows, gone])
        .append_column("removed", pa.array([False] * rows.num_rows + [True] * len(removed), pa.bool_()))
        .append_column("bucket", pa.array([bucket_of(doc_id, num_buckets) for doc_id in ids], pa.int32()))
        .cast(ROUTED_SCHEMA)
    )
    if wanted is None:
        return routed
    return routed.filter(pc.is_in(routed["bucket"], value_set=pa.array(sorted(wanted), pa.int32())))
