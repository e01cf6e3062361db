"""Documents that were given and never arrived.

A crawl gives what is new since the crawls before. If its run is given up before a dataset has the documents, no later
crawl would find them new again, and the dataset would lack them for ever. So a consumer (a dataset) confirms a result
once it has it, and a crawl for that consumer delivers again what was given since the last confirmed one. A new consumer
gets all that is known.
"""

from __future__ import annotations

from collections.abc import Iterator

from steps.common.context import StepContext
from steps.common.parquet import MEDIA_TYPE, parquet_bytes, parquet_table
from steps.common.results import CrawlResult
from steps.scrape.frontier import Frontier, open_frontier
from steps.scrape.pages import Page
from workflows.log import BlobRef, Blobs, Draft


def confirm(crawl: CrawlResult, consumer: str, ctx: StepContext) -> None:
    """Records that a consumer has the documents of a result. Doing it twice changes nothing.

    Args:
        crawl: The result.
        consumer: Name of the consumer, for example of the dataset.
        ctx: The surroundings.
    """
    ctx.fence()

    def decide(state: Frontier) -> Draft | None:
        if state.confirmed.get(consumer, 0) >= crawl.frontier_length:
            return None
        return Draft("confirmed", {"consumer": consumer, "length": crawl.frontier_length}, epoch=ctx.epoch)

    open_frontier(ctx.store, crawl.source).append(decide)


def undelivered(state: Frontier, consumer: str, crawl: str) -> tuple[Page, ...]:
    """Finds the pages whose last change a consumer has not confirmed, but for those of the crawl at hand.

    Args:
        state: The frontier.
        consumer: Name of the consumer.
        crawl: Token of the crawl at hand, which gives its own changes anyway.
    """
    confirmed = state.confirmed.get(consumer, 0)
    first = state.crawls[crawl].first
    return tuple(
        page
        for page in state.pages.values()
        if confirmed <= page.told_at and page.told_at and not (page.crawl == crawl and _is_own(page, first))
    )


def _is_own(page: Page, first: int) -> bool:
    return page.outcome in ("changed", "removed") and page.told_at >= first


def collect(pages: tuple[Page, ...], blobs: Blobs) -> Iterator[BlobRef]:
    """Gives blobs with exactly the documents of some pages: the old blob where all of it is wanted, else a part of
    it."""
    import pyarrow as pa

    wanted: dict[BlobRef, set[str]] = {}
    for page in pages:
        if page.document_in is not None:
            wanted.setdefault(page.document_in, set()).add(page.url)
    for ref, urls in wanted.items():
        table = parquet_table(blobs.get(ref))
        mask = [url in urls for url in table["url"].to_pylist()]
        yield ref if all(mask) else blobs.put(parquet_bytes(table.filter(pa.array(mask))), MEDIA_TYPE)
