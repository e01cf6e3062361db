"""Deletes blobs that nobody names any more, and only those older than the grace by the store's clock."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.log.blobs import TREE_MEDIA_TYPE, BlobRef, Blobs, TreeRef
from workflows.log.errors import NotFound
from workflows.log.failpoints import failpoint
from workflows.log.store import Store
from workflows.log.stored import stored_records

UNKNOWN_MEDIA_TYPE = ""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or would do.

    Attributes:
        deleted: Digests of blobs that nobody names and that are older than the grace.
        deleted_bytes: Their size.
        num_kept: Blobs that a root names, itself or by another blob.
        num_young: Blobs that nobody names yet, within the grace.
        missing: Digests of trees and JSON blobs that are named and not there.
    """

    deleted: tuple[str, ...]
    deleted_bytes: int
    num_kept: int
    num_young: int
    missing: tuple[str, ...]


def log_references(store: Store, name: str) -> Iterator[BlobRef | TreeRef]:
    """Everything that the records of a log name."""
    for record in stored_records(store, name):
        yield from references(record.data)
        yield from references(list(record.notify))


def references(value: Any) -> Iterator[BlobRef | TreeRef]:
    """Everything that a JSON value names: encoded references, and bare digests.

    Any 64 hex digits are taken for a digest: a blob that is kept for nothing costs space, one that is lost costs a run.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            for found in _DIGEST.findall(item):
                yield BlobRef(found, 0, UNKNOWN_MEDIA_TYPE)
        elif isinstance(item, Mapping):
            reference = _reference(item)
            if reference is not None:
                yield reference
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            stack.extend(item)


def collect_garbage(blobs: Blobs, roots: Iterable[BlobRef | TreeRef], *, dry_run: bool = False) -> Collected:
    """Deletes blobs that cannot be reached from the roots.

    Trees and blobs of JSON may name others, so they are followed. Blobs that are written meanwhile are young and stay.

    Args:
        blobs: Where to collect.
        roots: All that is named; `log_references` gives what one log names.
        dry_run: Only say what would be deleted.

    Raises:
        CorruptRecord: A log cannot be read to its end, so nobody knows what it names; nothing is deleted.
        CorruptBlob: The same for a tree or a JSON blob.
    """
    marked, missing = _mark(blobs, roots)
    deleted: list[str] = []
    deleted_bytes = num_kept = num_young = 0
    now = blobs.store.now()
    for info in blobs.store.list(blobs.prefix):
        sha256 = info.key.rpartition("/")[2]
        if sha256 in marked:
            num_kept += 1
        elif now - info.modified_at <= blobs.grace_s or not _is_still_old(blobs, info.key):
            num_young += 1
        else:
            if not dry_run:
                failpoint("gc.before-delete")
                blobs.store.delete(info.key)
            deleted.append(sha256)
            deleted_bytes += info.size
    _logger.info("collected %d blobs, kept %d and %d young ones", len(deleted), num_kept, num_young)
    return Collected(tuple(deleted), deleted_bytes, num_kept, num_young, tuple(sorted(missing)))


def keep_reachable(blobs: Blobs, roots: Iterable[BlobRef | TreeRef]) -> tuple[str, ...]:
    """Renews all that can be reached from the roots, for a log that will name it without putting it again.

    Returns:
        Digests that are named as a blob or a tree and are not there. Digits that only look like a digest do not count.

    Raises:
        CorruptBlob: A tree or a JSON blob is not what its name says.
    """
    named = list(roots)
    marked, missing = _mark(blobs, named)
    for sha256 in sorted(marked - missing):
        try:
            blobs.keep(BlobRef(sha256, 0))
        except NotFound:
            missing.add(sha256)
    typed = {ref.sha256 for ref in named if isinstance(ref, TreeRef) or ref.media_type != UNKNOWN_MEDIA_TYPE}
    return tuple(sorted(missing & typed))


def _mark(blobs: Blobs, roots: Iterable[BlobRef | TreeRef]) -> tuple[set[str], set[str]]:
    marked: set[str] = set()
    followed: set[str] = set()
    missing: set[str] = set()
    stack: list[BlobRef | TreeRef] = []
    for root in roots:
        stack.append(root)
        while stack:
            reference = stack.pop()
            marked.add(reference.sha256)
            if reference.sha256 in followed or not _names_others(reference):
                continue
            followed.add(reference.sha256)
            try:
                stack.extend(_named_by(blobs, reference))
            except NotFound:
                missing.add(reference.sha256)
    return marked, missing


def _names_others(reference: BlobRef | TreeRef) -> bool:
    return isinstance(reference, TreeRef) or "json" in reference.media_type


def _named_by(blobs: Blobs, reference: BlobRef | TreeRef) -> Iterator[BlobRef | TreeRef]:
    if isinstance(reference, TreeRef) or reference.media_type == TREE_MEDIA_TYPE:
        yield from blobs.tree(TreeRef(reference.sha256, 0, 0)).values()
        return
    data = blobs.get(reference)
    try:
        value = json.loads(data)
    except ValueError:
        value = data.decode("utf-8", "replace")  # JSON lines, or JSON only by name.
    yield from references(value)


def _reference(item: Mapping[str, Any]) -> BlobRef | TreeRef | None:
    sha256 = item.get("sha256")
    if not isinstance(sha256, str) or not _DIGEST.fullmatch(sha256):
        return None
    if isinstance(item.get("num_files"), int):
        return TreeRef(sha256, 0, item["num_files"])
    return BlobRef(sha256, 0, str(item.get("media_type", UNKNOWN_MEDIA_TYPE)))


def _is_still_old(blobs: Blobs, key: str) -> bool:
    # A writer may have renewed it since the listing.
    info = blobs.store.head(key)
    return info is not None and blobs.store.now() - info.modified_at > blobs.grace_s
