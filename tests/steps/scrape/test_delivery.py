from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steps.common.parquet import parquet_bytes, parquet_table
from steps.common.results import CrawlResult
from steps.scrape import ScrapeConfig, confirm, run
from steps.scrape.delivery import collect, undelivered
from steps.scrape.frontier import CrawlLog, open_frontier
from steps.scrape.pages import Outcome, Page
from workflows.log import BlobRef, Blobs, open_store

RESULT = CrawlResult(
    source="web",
    documents=(),
    removed=(),
    num_fetched=0,
    num_changed=0,
    num_unchanged=0,
    num_bytes=0,
    rejected={},
    seconds=0.0,
)


class Frontiers:
    """Crawls of one source, without a network."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(f"file://{folder}")
        self.blobs = Blobs(self.store)
        self.log = open_frontier(self.store, "web")

    def crawl(self, token: str, **outcomes: Outcome) -> CrawlLog:
        crawl = CrawlLog(self.log, token, (1, 1))
        crawl.begin()
        changed = [name for name, outcome in outcomes.items() if outcome == "changed"]
        pages = [
            Page(
                url=name, crawl=token, outcome=outcome, text_sha256=token if outcome in ("changed", "unchanged") else ""
            )
            for name, outcome in outcomes.items()
        ]
        table = pa.table({"url": changed, "text": [f"{name} by {token}" for name in changed]})
        crawl.record_batch(pages, self.blobs.put(parquet_bytes(table)) if changed else None)
        return crawl

    def waiting(self, consumer: str, token: str) -> dict[str, bool]:
        """Pages to deliver again, and whether they have a document."""
        return {page.url: page.document_in is not None for page in undelivered(self.log.refresh(), consumer, token)}

    def confirm(self, consumer: str, surroundings: Any) -> None:
        ctx = surroundings
        ctx.store = self.store
        confirm(replace(RESULT, frontier_length=self.log.length), consumer, ctx)


@pytest.fixture
def frontiers(tmp_path: Path) -> Frontiers:
    return Frontiers(tmp_path / "frontiers")


def test_what_was_given_and_not_confirmed_is_given_again(
    frontiers: Frontiers, surroundings: Callable[..., Any]
) -> None:
    frontiers.crawl("c1", a="changed", b="changed")
    frontiers.crawl("c2", a="unchanged", b="changed")
    assert frontiers.waiting("data", "c2") == {"a": True}, "b is given by this crawl itself"
    frontiers.crawl("c3", a="unchanged", b="removed")
    frontiers.crawl("c4", a="unchanged")
    assert frontiers.waiting("data", "c4") == {"a": True, "b": False}
    frontiers.confirm("data", surroundings())
    frontiers.crawl("c5", a="unchanged", b="rejected")
    assert frontiers.waiting("data", "c5") == {}
    assert frontiers.waiting("other", "c5") == {"a": True, "b": False}, "each consumer has its own count"


def test_trouble_in_between_loses_nothing(frontiers: Frontiers) -> None:
    frontiers.crawl("c1", a="changed")
    failed = Page(url="a", crawl="c2", outcome="failed", text_sha256="c1", fails=1)
    crawl = CrawlLog(frontiers.log, "c2", (1, 1))
    crawl.begin()
    crawl.record_batch([failed], None)
    assert frontiers.waiting("data", "c2") == {"a": True}


def test_confirming_twice_or_late_changes_nothing(frontiers: Frontiers, surroundings: Callable[..., Any]) -> None:
    frontiers.crawl("c1", a="changed")
    ctx = surroundings()
    ctx.store = frontiers.store
    confirm(replace(RESULT, frontier_length=2), "data", ctx)
    length = frontiers.log.refresh() and frontiers.log.length
    confirm(replace(RESULT, frontier_length=2), "data", ctx)
    confirm(replace(RESULT, frontier_length=1), "data", ctx)
    frontiers.log.refresh()
    assert frontiers.log.length == length
    assert frontiers.log.state.confirmed == {"data": 2}


def test_a_blob_is_given_whole_or_cut_to_what_is_wanted(frontiers: Frontiers) -> None:
    frontiers.crawl("c1", a="changed", b="changed")
    frontiers.crawl("c2", b="changed")
    crawl = frontiers.crawl("c3", a="unchanged", b="unchanged")
    pages = undelivered(frontiers.log.refresh(), "data", crawl.token)
    refs: list[BlobRef] = list(collect(pages, frontiers.blobs))
    rows = [row for ref in refs for row in parquet_table(frontiers.blobs.get(ref)).to_pylist()]
    assert rows == [{"url": "a", "text": "a by c1"}, {"url": "b", "text": "b by c2"}]
    assert refs[1] == frontiers.log.state.pages["b"].document_in


@pytest.mark.ray
def test_a_run_given_up_after_the_crawl_takes_nothing_from_the_next_one(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any
) -> None:
    site.pages |= {"/": make_article("start", ("/a",)), "/a": make_article("a")}
    config = ScrapeConfig(seeds=(site.url + "/",), allow_private=True, delay_s=0.0)
    given_up = surroundings("given up")
    lost = rows_of(run(config, given_up, consumer="data"), given_up)
    ctx = surroundings("next")
    result = run(config, ctx, consumer="data")
    assert sorted(row["url"] for row in rows_of(result, ctx)) == sorted(row["url"] for row in lost)
    assert (result.num_changed, result.num_unchanged) == (2, 2)
    confirm(result, "data", ctx)
    assert run(config, surroundings("last"), consumer="data").documents == ()
