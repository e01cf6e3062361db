"""Cleans crawled documents, and says which are fit to learn from.

Takes the new and changed documents of a crawl; gives the accepted ones, the rejected ones with rule and value, and the
URLs that must leave the dataset. A re-run is safe: the same crawl and settings give the same blobs, whatever the number
of workers or the order of blocks, and blobs are named by their content.

    python -m steps.validate --storage /tmp/el --inputs crawl.json --set 'languages=["en","de"]'
"""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from steps.common.context import StepContext
from steps.common.ray_data import gather, num_blocks, quiet_ray_data
from steps.common.results import CrawlResult, ValidationResult
from steps.validate.config import ValidateConfig
from steps.validate.errors import RejectRateError, SchemaRateError, UnreadableCrawlError
from workflows.log import BlobRef, Blobs

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one partition came to: blobs, counts and the URLs on either side; `documents` or `rejects` may be empty."""

    partition: int
    num_in: int
    num_accepted: int
    documents: tuple[BlobRef, ...]
    rejects: tuple[BlobRef, ...]
    rejected: Mapping[str, int]
    masked: Mapping[str, int]
    accepted_urls: tuple[str, ...]
    rejected_urls: tuple[str, ...]


def run(config: ValidateConfig, crawl: CrawlResult, ctx: StepContext) -> ValidationResult:
    """Validates a crawl.

    Raises:
        SchemaRateError: Too many rows break the schema.
        RejectRateError: Too many rows were rejected, for any reason.
        UnreadableCrawlError: A blob of the crawl does not hold documents.
    """
    if not crawl.documents:
        return _nothing_new(crawl)
    ctx.progress(0, crawl.num_changed, "cleaning")
    parts = _clean_and_write(config, crawl, ctx.blobs)
    result = _joined(parts, crawl.removed)
    check_gates(config, result)
    ctx.progress(result.num_in, result.num_in, f"{result.num_accepted} accepted", {"rejected": _num_rejected(result)})
    return result


def check_gates(config: ValidateConfig, result: ValidationResult) -> None:
    """Raises if too many rows failed; below `min_rows` rows no rate is judged.

    Raises:
        SchemaRateError: More rows broke the schema than `max_schema_failure_rate` allows.
        RejectRateError: More rows were rejected than `max_reject_rate` allows.
    """
    if result.num_in < config.min_rows:
        return
    num_broken = sum(count for rule, count in result.rejected.items() if rule.startswith("schema:"))
    for error, key, num_failed in (
        (SchemaRateError, "max_schema_failure_rate", num_broken),
        (RejectRateError, "max_reject_rate", _num_rejected(result)),
    ):
        limit = getattr(config, key)
        if num_failed / result.num_in > limit:
            raise error(key, limit, num_failed, result)


def _nothing_new(crawl: CrawlResult) -> ValidationResult:
    return ValidationResult(
        documents=(),
        rejects=(),
        removed=tuple(sorted(set(crawl.removed))),
        num_in=0,
        num_accepted=0,
        rejected={},
        masked={},
    )


def _joined(parts: Sequence[Part], gone: Sequence[str]) -> ValidationResult:
    rejected, masked = Counter[str](), Counter[str]()
    accepted_urls, removed = set[str](), set(gone)
    for part in parts:
        rejected.update(part.rejected)
        masked.update(part.masked)
        accepted_urls.update(part.accepted_urls)
        removed.update(part.rejected_urls)
    return ValidationResult(
        documents=tuple(ref for part in parts for ref in part.documents),
        rejects=tuple(ref for part in parts for ref in part.rejects),
        # A page may have been crawled twice, once good and once bad; the good one stays.
        removed=tuple(sorted(removed - accepted_urls)),
        num_in=sum(part.num_in for part in parts),
        num_accepted=sum(part.num_accepted for part in parts),
        rejected=dict(sorted(rejected.items())),
        masked=dict(sorted(masked.items())),
    )


def _num_rejected(result: ValidationResult) -> int:
    return result.num_in - result.num_accepted


def _clean_and_write(config: ValidateConfig, crawl: CrawlResult, blobs: Blobs) -> list[Part]:
    """Runs the Ray Data plan: read and clean each blob, bring equal texts together, keep one of each, write.

    Rows go to partitions by the digest of their text, so all copies of a text meet, and which rows share a file depends
    on the rows alone.
    """
    import ray.data
    from ray.data import TaskPoolStrategy

    num_partitions = num_blocks(crawl.num_changed, config.rows_per_file, most=4096)
    num_tasks = num_blocks(crawl.num_changed, config.rows_per_task, most=len(crawl.documents))
    with quiet_ray_data():
        judged = ray.data.from_items(
            [asdict(ref) for ref in crawl.documents], override_num_blocks=num_tasks
        ).map_batches(
            functools.partial(_read_and_clean, blobs=blobs, config=config, num_partitions=num_partitions),
            batch_format="pyarrow",
            batch_size=1,
            num_cpus=1,
            compute=TaskPoolStrategy(min(config.num_workers, num_tasks)),
        )
        written = gather(judged, "partition", num_partitions).map_batches(
            functools.partial(_deduplicate_and_write, blobs=blobs),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=1,
            compute=TaskPoolStrategy(min(config.num_workers, num_partitions)),
        )
        rows = [json.loads(row["part"]) for row in written.take_all()]
    parts = [_part(row) for row in rows]
    return sorted(parts, key=lambda part: part.partition)


def _read_and_clean(refs: pa.Table, *, blobs: Blobs, config: ValidateConfig, num_partitions: int) -> pa.Table:
    import pyarrow as pa

    from steps.common.parquet import parquet_table
    from steps.validate.cleaning import check_columns, clean

    tables = []
    for row in refs.to_pylist():
        data = blobs.get(BlobRef(**row))
        try:
            raw = parquet_table(data)
        except pa.ArrowInvalid as error:
            raise UnreadableCrawlError(row["sha256"], str(error)) from error
        tables.append(clean(check_columns(row["sha256"], raw), config))
    judged = pa.concat_tables(tables)
    partitions = [int(digest[:8], 16) % num_partitions for digest in judged["text_sha256"].to_pylist()]
    return judged.append_column("partition", pa.array(partitions, pa.int32()))


def _deduplicate_and_write(judged: pa.Table, *, blobs: Blobs) -> dict[str, list[str]]:
    import pyarrow.compute as pc

    written = []
    # Ray hashes the partition number again, so a block may hold several partitions, or none.
    for partition in sorted(pc.unique(judged["partition"]).to_pylist()):
        rows = judged.filter(pc.equal(judged["partition"], partition)).drop_columns(["partition"])
        written.append(json.dumps(asdict(_write_partition(partition, rows, blobs))))
    return {"part": written}


def _write_partition(partition: int, judged: pa.Table, blobs: Blobs) -> Part:
    from steps.common.parquet import MEDIA_TYPE, parquet_bytes
    from steps.validate.cleaning import accepted_rows, mark_duplicates, rejected_rows

    judged = mark_duplicates(judged)
    accepted, rejected = accepted_rows(judged), rejected_rows(judged)
    masked = Counter[str]()
    for rule, counts in zip(judged["rule"].to_pylist(), judged["masked"].to_pylist(), strict=True):
        if not rule:
            masked.update(json.loads(counts))
    documents, rejects = (
        (blobs.put(parquet_bytes(table), MEDIA_TYPE),) if table.num_rows else () for table in (accepted, rejected)
    )
    return Part(
        partition=partition,
        num_in=judged.num_rows,
        num_accepted=accepted.num_rows,
        documents=documents,
        rejects=rejects,
        rejected=dict(Counter(rejected["rule"].to_pylist())),
        masked=dict(masked),
        accepted_urls=tuple(accepted["url"].to_pylist()),
        rejected_urls=tuple(url for url in rejected["url"].to_pylist() if url is not None),
    )


def _part(row: dict[str, Any]) -> Part:
    refs = {key: tuple(BlobRef(**ref) for ref in row[key]) for key in ("documents", "rejects")}
    urls = {key: tuple(row[key]) for key in ("accepted_urls", "rejected_urls")}
    return Part(**{**row, **refs, **urls})
