"""Crawls a source: politely, incrementally, and so that a crash anywhere loses no page and doubles no document.

Takes a source; gives the documents that are new or changed since the crawls before. Fetchers (Ray actors) wait for the
network, readers (Ray tasks) do the CPU work and store the documents, and this coordinator alone writes the frontier,
one record per batch. A re-run with the same token skips the batches that are recorded and takes their documents from
the records; once the crawl is finished it only gives the same result again.

    python -m steps.scrape --storage /tmp/everloop --set max_pages=50
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from steps.common.context import StepContext
from steps.common.parquet import parquet_table
from steps.common.results import CrawlResult
from steps.scrape.config import ScrapeConfig
from steps.scrape.delivery import collect, undelivered
from steps.scrape.documents import stored_links
from steps.scrape.errors import (
    CrawlFailedError,
    EmptyCrawlError,
    RobotsForbidAllError,
    SeedRefusedError,
    SeedUnreachableError,
)
from steps.scrape.frontier import Attempt, CrawlLog, batch_documents, batch_elapsed, batch_pages, open_frontier
from steps.scrape.pages import Page, ReadBatch, ReadSettings
from steps.scrape.plan import Plan
from steps.scrape.source import Source, open_source, source_name
from steps.scrape.workers import Workers, open_workers

logger = logging.getLogger(__name__)


def run(config: ScrapeConfig, ctx: StepContext, *, consumer: str | None = None) -> CrawlResult:
    """Crawls the source that the config names.

    Args:
        config: What to crawl, and how.
        ctx: The surroundings; its token names the crawl.
        consumer: Name of who takes the documents and confirms them (`confirm`); what it has not confirmed is delivered
            again. None: only what this crawl finds new or changed.

    Raises:
        CrawlFailedError: No seed answered or may be asked for, or no page has ever given a document; the message names
            the URL and the rule.
        workflows.log.Fenced: A newer attempt at this crawl has begun.
    """
    name = source_name(config)
    crawl = CrawlLog(open_frontier(ctx.store, name), ctx.token, (ctx.epoch, ctx.attempt))
    if not crawl.is_finished():
        ctx.fence()
        crawl.begin()
        with open_source(config, ctx.scratch / "source") as source:
            attempt = _CrawlAttempt(config, source, crawl, ctx)
            attempt.crawl()
        ctx.fence()
        _finish(crawl, consumer, ctx)
    return _result(name, crawl, ctx)


def _finish(crawl: CrawlLog, consumer: str | None, ctx: StepContext) -> None:
    state, length = crawl.log.refresh(), crawl.log.length
    pages = undelivered(state, consumer, crawl.token) if consumer is not None else ()
    if pages:
        logger.info("%d documents or removals were given before and not confirmed by %s: again", len(pages), consumer)
    removed = [page.url for page in pages if not page.text_sha256]
    crawl.finish(list(collect(pages, ctx.blobs)), removed, length)


class _CrawlAttempt:
    """One attempt at a crawl: the plan, the processes, and the records, in one loop."""

    def __init__(self, config: ScrapeConfig, source: Source, crawl: CrawlLog, ctx: StepContext) -> None:
        self._config = config
        self._source = source
        self._crawl = crawl
        self._ctx = ctx
        self._plan = Plan(
            source,
            crawl.log.state.pages,
            max_pages=config.max_pages,
            batch_size=config.batch_size,
            num_fetchers=config.num_fetchers,
        )
        self._outcomes: Counter[str] = Counter()
        self._held: list[ReadBatch] = []
        self._details: dict[str, str] = {}

    def crawl(self) -> None:
        """Looks at every page that is left."""
        self._take_up()
        with open_workers(self._config, self._source, self._read_settings()) as workers:
            while True:
                for batch in self._plan.next_batches():
                    workers.start(batch)
                if workers.are_idle:
                    break
                self._take_in(workers)
        if self._held:
            raise self._seed_failure()
        self._check_not_empty()

    def _take_up(self) -> None:
        """Puts what earlier attempts at this crawl have recorded into the plan."""
        done = [page for record in self._crawl.batches() for page in batch_pages(record)]
        self._plan.skip(done)
        for page in done:
            self._plan.done(page, stored_links(page, self._ctx.blobs))
        self._outcomes.update(page.outcome for page in done)
        self._plan.begin()
        if done:
            logger.info("crawl %s goes on after %d pages", self._crawl.token, len(done))

    def _take_in(self, workers: Workers) -> None:
        for batch, read in workers.landed():
            if read is None:
                given_up = self._plan.lost(batch)
                pages = tuple(
                    Page(url=request.url, crawl=self._crawl.token, outcome="failed", reason="crashed")
                    for request in given_up
                )
                self._record(ReadBatch(pages=pages, links={}, documents=None, num_documents=0))
                continue
            self._plan.landed(batch, read.left)
            if read.to_render:
                workers.render(self._plan.render(batch, {page.url for page in read.to_render}), read.to_render)
            self._record(read)

    def _record(self, read: ReadBatch) -> None:
        """Records a batch, or holds it as long as no page has answered.

        A site that is down must not be recorded page by page as failed: the crawl fails, and a resumed run begins anew.
        """
        if not read.pages:
            return
        for page in read.pages:
            self._plan.done(page, read.links.get(page.url, ()))
        self._details.update(read.details)
        self._held.append(read)
        if not self._outcomes and not any(page.has_answered for page in read.pages):
            return
        for held in self._held:
            self._ctx.fence()
            self._crawl.record_batch(held.pages, held.documents)
            self._outcomes.update(page.outcome for page in held.pages)
        self._held.clear()
        self._show_progress()

    def _read_settings(self) -> ReadSettings:
        return ReadSettings(
            crawl=self._crawl.token,
            storage=self._ctx.store.uri,
            sites=self._source.sites,
            min_text_chars=self._config.min_text_chars,
            drop=self._source.drop,
            volatile=self._source.volatile,
            can_render=self._config.browser == "auto",
        )

    def _show_progress(self) -> None:
        seconds = max(self._crawl.elapsed_s(), 1e-3)
        changed, unchanged = self._outcomes["changed"], self._outcomes["unchanged"]
        self._ctx.progress(
            self._plan.num_asked,
            self._plan.num_total,
            f"{changed} new or changed, {unchanged} unchanged, {self._outcomes['rejected']} rejected",
            {"pages_per_s": self._plan.num_asked / seconds, "documents": changed},
        )

    def _seed_failure(self) -> CrawlFailedError:
        """Says why no page could be had, by the first seed."""
        pages = {page.url: page for held in self._held for page in held.pages}
        seed = next((pages[url] for url in self._source.seeds if url in pages), next(iter(pages.values())))
        detail = self._details.get(seed.url) or seed.reason
        match seed.reason:
            case "robots":
                return RobotsForbidAllError(seed.url, detail)
            case "private_address" | "bad_url":
                return SeedRefusedError(seed.url, detail)
            case _:
                return SeedUnreachableError(seed.url, f"{seed.reason}: {detail}")

    def _check_not_empty(self) -> None:
        state = self._crawl.log.refresh()
        if any(page.text_sha256 for page in state.pages.values()):
            return
        error = EmptyCrawlError(self._source.name, self._source.seeds[0], _rejections(_pages(self._crawl)))
        self._crawl.abandon(str(error))
        raise error


def _result(name: str, crawl: CrawlLog, ctx: StepContext) -> CrawlResult:
    """Puts the result together from the records, whichever attempts wrote them."""
    pages = _pages(crawl)
    documents = [ref for record in crawl.batches() if (ref := batch_documents(record)) is not None]
    again, removed_before, length = crawl.delivered_again()
    removed = dict.fromkeys([*(page.url for page in pages if page.outcome == "removed"), *removed_before])
    num_again = sum(parquet_table(ctx.blobs.get(ref), columns=["url"]).num_rows for ref in again)
    return CrawlResult(
        source=name,
        documents=(*documents, *again),
        removed=tuple(removed),
        num_fetched=sum(page.was_asked_for for page in pages),
        num_changed=sum(page.outcome == "changed" for page in pages) + num_again,
        num_unchanged=sum(page.outcome == "unchanged" for page in pages),
        num_bytes=sum(page.num_bytes for page in pages),
        rejected=_rejections(pages),
        seconds=_seconds(crawl),
        frontier_length=length,
    )


def _pages(crawl: CrawlLog) -> list[Page]:
    return [page for record in crawl.batches() for page in batch_pages(record)]


def _rejections(pages: Sequence[Page]) -> dict[str, int]:
    return dict(sorted(Counter(page.reason for page in pages if page.reason).items()))


def _seconds(crawl: CrawlLog) -> float:
    """Time at work: that of each attempt up to its last batch, without the time between attempts."""
    by_attempt: dict[Attempt, float] = {}
    for record in crawl.batches():
        attempt, elapsed_s = batch_elapsed(record)
        by_attempt[attempt] = max(elapsed_s, by_attempt.get(attempt, 0.0))
    return round(sum(by_attempt.values()), 3)
