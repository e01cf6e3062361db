"""Which rows a bucket has after a change. Pure: tables in, tables out; equal rows in, equal bytes out."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from steps.common.dataset import CLEAN_SCHEMA, DATASET_SCHEMA, Split

CONTENT_COLUMNS = tuple(name for name in CLEAN_SCHEMA.names if name != "fetched_at")
"""What makes a document another one. Fetched again and found the same, it keeps its row, and its bucket its bytes."""


def document_id(url: str) -> str:
    """Returns the `doc_id` of a canonical URL: its SHA-256."""
    return hashlib.sha256(url.encode()).hexdigest()


def bucket_of(doc_id: str, num_buckets: int) -> int:
    """Returns the bucket of a document, the same for ever."""
    return _hash("bucket", doc_id) % num_buckets


def split_of(doc_id: str, heldout_fraction: float) -> Split:
    """Returns the side of the split that a document is on, the same for ever.

    Documents whose hash lies below the fraction are held out.
    """
    return "heldout" if _hash("split", doc_id) < heldout_fraction * 2**64 else "train"


def _hash(purpose: str, doc_id: str) -> int:
    # The purpose keeps the two decisions independent: every bucket has its share of held-out rows.
    return int.from_bytes(hashlib.sha256(f"{purpose}:{doc_id}".encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class Merged:
    """A bucket after a change, and how many rows that added, changed and removed."""

    table: pa.Table
    num_added: int
    num_changed: int
    num_removed: int

    @property
    def is_unchanged(self) -> bool:
        """Whether the parent's file can be shared."""
        return not (self.num_added or self.num_changed or self.num_removed)


def merge(parent: pa.Table, incoming: pa.Table, removed: Collection[str], heldout_fraction: float) -> Merged:
    """Puts new and changed documents into a bucket, by `doc_id`, and takes removed ones out; who is both, is in.

    Args:
        parent: The bucket's rows so far, as `DATASET_SCHEMA`, each `doc_id` once.
        incoming: Documents as `CLEAN_SCHEMA`; of several with one `doc_id`, the last fetched counts.
        removed: Ids of documents to drop; unknown ones are no error.
        heldout_fraction: Share of documents held out.

    Returns:
        The rows as `DATASET_SCHEMA`, sorted by `doc_id`.
    """
    incoming = _newest(incoming)
    known = {content[0]: content for content in _contents(parent)}
    fresh = [known.get(content[0]) != content for content in _contents(incoming)]
    arriving = incoming.filter(pa.array(fresh, pa.bool_()))
    arriving_ids = set(arriving["doc_id"].to_pylist())
    staying_ids = set(incoming["doc_id"].to_pylist()) - arriving_ids
    dropped = (set(removed) & known.keys()) - arriving_ids - staying_ids
    leaving = pa.array(sorted(arriving_ids | dropped), pa.string())
    kept = parent.filter(pc.invert(pc.is_in(parent["doc_id"], value_set=leaving)))
    splits = [split_of(doc_id, heldout_fraction) for doc_id in arriving["doc_id"].to_pylist()]
    arriving = arriving.append_column(DATASET_SCHEMA.field("split"), pa.array(splits, pa.string()))
    table = pa.concat_tables([kept, arriving]).sort_by("doc_id")
    num_changed = len(arriving_ids & known.keys())
    return Merged(table, len(arriving_ids) - num_changed, num_changed, len(dropped))


def _newest(incoming: pa.Table) -> pa.Table:
    order = incoming.sort_by([("doc_id", "ascending"), ("fetched_at", "descending"), ("text_sha256", "ascending")])
    ids = order["doc_id"].to_pylist()
    first = [index == 0 or ids[index - 1] != doc_id for index, doc_id in enumerate(ids)]
    return order.filter(pa.array(first, pa.bool_()))


def _contents(table: pa.Table) -> list[tuple[object, ...]]:
    # The text is compared by its digest.
    names = [name for name in CONTENT_COLUMNS if name != "text"]
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))
