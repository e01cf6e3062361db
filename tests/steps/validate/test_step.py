"""The step: gates, determinism, re-runs."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steps.common.alone import AloneContext
from steps.common.parquet import parquet_table
from steps.common.results import CrawlResult, ValidationResult
from steps.validate import RejectRateError, SchemaRateError, UnreadableCrawlError, ValidateConfig, run
from steps.validate.step import check_gates

Row = Callable[..., dict[str, Any]]
Crawl = Callable[..., CrawlResult]
Prose = Callable[[str], str]


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[AloneContext]:
    with AloneContext(str(tmp_path / "storage"), step="validate") as context:
        yield context


def result_of(num_in: int, rejected: dict[str, int]) -> ValidationResult:
    return ValidationResult(
        documents=(), rejects=(), removed=(), num_in=num_in, num_accepted=num_in - sum(rejected.values()),
        rejected=rejected, masked={},
    )  # fmt: skip


def test_rejecting_as_many_as_allowed_passes() -> None:
    check_gates(ValidateConfig(max_reject_rate=0.5), result_of(100, {"min_words": 50}))


def test_rejecting_more_than_allowed_fails_with_the_counts() -> None:
    with pytest.raises(RejectRateError) as caught:
        check_gates(ValidateConfig(max_reject_rate=0.5), result_of(100, {"min_words": 31, "language": 20}))
    assert "51 of 100" in str(caught.value)
    assert "validate.max_reject_rate allows 50.0%" in str(caught.value)
    assert "min_words 31, language 20" in str(caught.value)
    assert caught.value.result.rejected == {"min_words": 31, "language": 20}


def test_too_few_rows_are_not_judged() -> None:
    check_gates(ValidateConfig(min_rows=20), result_of(19, {"min_words": 19}))


def test_broken_schema_has_a_gate_of_its_own() -> None:
    with pytest.raises(SchemaRateError, match="max_schema_failure_rate"):
        check_gates(ValidateConfig(), result_of(100, {"schema:url:str_matches": 2}))


def test_errors_pickle() -> None:
    error = RejectRateError("max_reject_rate", 0.5, 60, result_of(100, {"language": 60}))
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.result) == (RejectRateError, str(error), error.result)


def test_a_crawl_without_changes_passes_through_without_ray(make_crawl: Crawl, ctx: AloneContext) -> None:
    import ray

    running = ray.is_initialized()
    result = run(
        ValidateConfig(), make_crawl(ctx.blobs, [], removed=["https://example.org/b", "https://example.org/a"]), ctx
    )
    assert result.removed == ("https://example.org/a", "https://example.org/b")
    assert (result.num_in, result.documents, result.rejects) == (0, (), ())
    assert ray.is_initialized() == running


@pytest.mark.ray
def test_a_crawl_is_cleaned_and_everything_is_accounted_for(
    ray_head: str, make_crawl: Crawl, raw_row: Row, prose: Prose, ctx: AloneContext
) -> None:
    good = [raw_row(f"good-{n}", prose(f"topic{n}") + "\njoe@example.org") for n in range(20)]
    bad = [raw_row("short", "too short"), raw_row("copy", prose("topic3") + "\njim@example.org")]
    gone = ["https://example.org/gone", "https://example.org/good-1"]
    crawl = make_crawl(ctx.blobs, [good[:7], bad, good[7:]], removed=gone)
    result = run(ValidateConfig(), crawl, ctx)
    assert (result.num_in, result.num_accepted) == (22, 20)
    assert result.rejected == {"duplicate": 1, "min_words": 1}
    assert result.masked == {"email": 20}
    # `good-3` gives way to `copy`, which sorts before it; `good-1` is gone and back.
    assert result.removed == tuple(f"https://example.org/{name}" for name in ("gone", "good-3", "short"))
    (documents,), (rejects,) = result.documents, result.rejects
    accepted = parquet_table(ctx.blobs.get(documents))
    assert accepted.num_rows == 20
    assert accepted["doc_id"].to_pylist() == sorted(accepted["doc_id"].to_pylist())
    assert {row["rule"] for row in parquet_table(ctx.blobs.get(rejects)).to_pylist()} == {"duplicate", "min_words"}


@pytest.mark.ray
def test_the_same_rows_give_the_same_blobs_in_any_order_and_with_any_number_of_workers(
    ray_head: str, make_crawl: Crawl, raw_row: Row, prose: Prose, ctx: AloneContext
) -> None:
    rows = [raw_row(f"page-{n}", prose(f"topic{n % 45}")) for n in range(60)]
    results = []
    for seed, num_workers, rows_per_task in ((0, 1, 1000), (1, 2, 7), (2, 2, 30)):
        random.Random(seed).shuffle(rows)
        crawl = make_crawl(ctx.blobs, [rows[start : start + 11] for start in range(0, 60, 11)])
        config = ValidateConfig(num_workers=num_workers, rows_per_task=rows_per_task, rows_per_file=25)
        results.append(run(config, crawl, ctx))
    assert results[0] == results[1] == results[2]
    assert results[0].num_accepted == 45
    assert len(results[0].documents) == 3


@pytest.mark.ray
def test_a_crawl_of_rubbish_is_stopped_and_its_rejects_are_kept(
    ray_head: str, make_crawl: Crawl, raw_row: Row, ctx: AloneContext
) -> None:
    crawl = make_crawl(ctx.blobs, [[raw_row(f"page-{n}", "Please turn on JavaScript.") for n in range(30)]])
    with pytest.raises(RejectRateError) as caught:
        run(ValidateConfig(), crawl, ctx)
    (rejects,) = caught.value.result.rejects
    assert parquet_table(ctx.blobs.get(rejects)).num_rows == 30


@pytest.mark.ray
def test_a_blob_that_holds_no_documents_is_named(
    ray_head: str, make_crawl: Crawl, raw_row: Row, ctx: AloneContext
) -> None:
    import dataclasses

    crawl = make_crawl(ctx.blobs, [[raw_row("a", "b")]])
    crawl = dataclasses.replace(crawl, documents=(ctx.blobs.put(b"not a Parquet file"),))
    with pytest.raises(UnreadableCrawlError, match=crawl.documents[0].sha256):
        run(ValidateConfig(), crawl, ctx)
