"""What can be asked of a dataset's versions: how two differ, and which blobs nobody needs any more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from steps.common.dataset import DATASET_SCHEMA
from steps.common.parquet import MEDIA_TYPE, parquet_table
from steps.version.manifest import BucketFile, DatasetState, Manifest, check_tag
from steps.version.merge import CONTENT_COLUMNS
from workflows.log import (
    BlobRef,
    Blobs,
    Collected,
    Draft,
    Log,
    NotFound,
    Record,
    Store,
    TreeRef,
    collect_garbage,
    list_logs,
    references,
    stored_records,
)

FOLLOWED_MAX_BYTES = 16 * 2**20
"""Blobs known by a bare digest are looked into for the names of others up to this size; data is larger or binary."""


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """How one version differs from another, by URL, sorted; and how many files both share."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    num_shared_files: int


def diff(before: Manifest, after: Manifest, blobs: Blobs) -> VersionDiff:
    """Compares two versions. Reads only files that are not the same in both."""
    old, new = ({file.bucket: file for file in manifest.files} for manifest in (before, after))
    added, changed, removed = list[str](), list[str](), list[str]()
    num_shared = 0
    for bucket in sorted(old.keys() | new.keys()):
        left, right = old.get(bucket), new.get(bucket)
        if left is not None and right is not None and left.sha256 == right.sha256:
            num_shared += 1
            continue
        rows_before, rows_after = _documents(left, blobs), _documents(right, blobs)
        added += [url for doc_id, (url, _) in rows_after.items() if doc_id not in rows_before]
        removed += [url for doc_id, (url, _) in rows_before.items() if doc_id not in rows_after]
        changed += [
            url for doc_id, (url, row) in rows_after.items() if doc_id in rows_before and rows_before[doc_id][1] != row
        ]
    return VersionDiff(tuple(sorted(added)), tuple(sorted(changed)), tuple(sorted(removed)), num_shared)


def tag(log: Log[DatasetState], dataset: str, wanted: str, name: str) -> Manifest:
    """Gives a version a name; a name that was given before moves.

    Raises:
        InvalidTagError: The name could be taken for a version.
        UnknownVersionError: There is no such version.
    """
    check_tag(name)
    manifest = log.refresh().find(dataset, wanted)
    log.append(
        lambda state: (
            None
            if state.tags.get(name) == manifest.version
            else Draft("tag", {"name": name, "version": manifest.version})
        )
    )
    return manifest


def collect(blobs: Blobs, *, dry_run: bool) -> Collected:
    """Deletes blobs of the storage that no log names and that are older than the grace: left by steps that died.

    Versions are never deleted. Blobs belong to no one log: what any log of the storage names stays, of datasets
    and of others.

    Raises:
        workflows.log.CorruptRecord: A log cannot be read, so nobody knows what it names; nothing is deleted.
    """
    return collect_garbage(blobs, _roots(blobs), dry_run=dry_run)


def _roots(blobs: Blobs) -> Iterator[BlobRef | TreeRef]:
    """Yields everything that is named anywhere in the storage outside of the blobs."""
    store = blobs.store
    # One listing tells which digests are those of blobs: a frontier names two of every page that are not, and to ask
    # for each would cost more than all the rest. What is written from here on is young, and stays.
    sizes = {info.key.rpartition("/")[2]: info.size for info in store.list(blobs.prefix)}
    names = list_logs(store, "")
    named = chain(
        chain.from_iterable(_named_by_log(store, name) for name in names),
        _named_by_objects(store, names, blobs.prefix),
    )
    seen: set[str] = set()
    for reference in named:
        yield reference
        if isinstance(reference, BlobRef) and reference.media_type == MEDIA_TYPE:
            seen.add(reference.sha256)  # Rows name no blobs, so they need not be read to the last byte.
        elif isinstance(reference, BlobRef) and not reference.media_type:
            yield from _named_by_unknown(blobs, reference, sizes, seen)


def _named_by_log(store: Store, name: str) -> Iterator[BlobRef | TreeRef]:
    for record in stored_records(store, name):
        if name.startswith("datasets/") and record.kind == "version":
            yield from _tables(record)
        yield from references(record.data)
        yield from references(list(record.notify))


def _tables(record: Record) -> Iterator[BlobRef]:
    """Yields the tables that a manifest names by their bare digests."""
    lineage = record.data.get("lineage", {})
    for sha256 in (
        *(file["sha256"] for file in record.data["files"]),
        *lineage.get("documents", ()),
        *lineage.get("rejects", ()),
    ):
        yield BlobRef(sha256, 0, MEDIA_TYPE)


def _named_by_objects(store: Store, logs: list[str], blobs_prefix: str) -> Iterator[BlobRef | TreeRef]:
    # Small JSON beside the logs, such as the checkpoints of a step that was run alone.
    beside = (f"{blobs_prefix}/", *(f"{name}/0" for name in logs), *(f"{name}/snapshots/" for name in logs))
    for info in store.list(""):
        if info.key.endswith(".json") and not info.key.startswith(beside):
            try:
                yield from references(_json(store.get(info.key)))
            except NotFound:
                continue  # Gone since it was listed.


def _named_by_unknown(
    blobs: Blobs, reference: BlobRef, sizes: Mapping[str, int], seen: set[str]
) -> Iterator[BlobRef | TreeRef]:
    """Yields what a blob names that is known by its bare digest: it may be a tree, or a long value."""
    stack = [reference.sha256]
    while stack:
        sha256 = stack.pop()
        size = None if sha256 in seen else sizes.get(sha256)
        seen.add(sha256)
        if size is None or size > FOLLOWED_MAX_BYTES:
            continue
        for found in references(_json(blobs.get(BlobRef(sha256, size)))):
            yield found
            if isinstance(found, BlobRef) and not found.media_type:
                stack.append(found.sha256)


def _json(data: bytes) -> object:
    if data[:1] not in (b"{", b"["):
        return None
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")


def _documents(file: BucketFile | None, blobs: Blobs) -> dict[str, tuple[str, tuple[object, ...]]]:
    table = DATASET_SCHEMA.empty_table() if file is None else _file_table(file, blobs)
    content = zip(*(table[name].to_pylist() for name in CONTENT_COLUMNS), strict=True)
    return {
        doc_id: (url, row)
        for doc_id, url, row in zip(table["doc_id"].to_pylist(), table["url"].to_pylist(), content, strict=True)
    }


def _file_table(file: BucketFile, blobs: Blobs) -> pa.Table:
    return parquet_table(blobs.get(file.ref))
