"""What is asked for next. Pure: no network, no Ray, no log.

Pages that earlier crawls know come first, in the order of their discovery; so a crawl that may not see all pages looks
at the same ones again, and emits nothing when they are unchanged. Then come new ones, breadth first. Each host has a
queue of its own, and belongs to one fetcher.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from steps.scrape.pages import REDIRECTS, Page, PageRequest
from steps.scrape.source import Source
from steps.scrape.urls import host_of

MAX_BATCHES_PER_HOST = 2
"""One is being fetched while the one before is read."""

MAX_BATCHES_PER_FETCHER = 8

MAX_FAILS = 3
"""After as many crawls a page that fails is asked for again only where it is linked."""

MAX_LOSSES = 3
"""A page whose batch was lost as often, alone, is given up: it kills whoever touches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pages of one host that are asked for together.

    Attributes:
        fetcher: Number of the fetcher that the host belongs to.
        host: Host and port.
        requests: The pages.
        num_losses: How often these pages were lost with a process.
    """

    fetcher: int
    host: str
    requests: tuple[PageRequest, ...]
    num_losses: int = 0


class Plan:
    """The queues of one attempt at a crawl.

    Args:
        source: Where to begin and what to follow.
        known: What earlier crawls know.
        max_pages: Pages that may be asked for.
        batch_size: Pages of a batch at most.
        num_fetchers: Hosts are shared out among as many.
    """

    def __init__(
        self, source: Source, known: Mapping[str, Page], *, max_pages: int, batch_size: int, num_fetchers: int
    ) -> None:
        self.num_asked = 0
        self._source = source
        self._known = known
        self._max_pages = max_pages
        self._batch_size = batch_size
        self._queues: dict[str, deque[PageRequest]] = {}
        self._num_queued = 0
        # Hosts of each fetcher that have pages to ask for and may start a batch: with thousands of hosts, looking at
        # each whenever a batch lands costs more than the crawl.
        self._ready: tuple[dict[str, None], ...] = tuple({} for _ in range(num_fetchers))
        self._lost: list[Batch] = []
        self._of_host: Counter[str] = Counter()
        self._of_fetcher: Counter[int] = Counter()
        self._num_flying = 0
        self._num_redirects: dict[str, int] = {}

    @property
    def num_total(self) -> int:
        """Pages that this crawl will ask for, as far as it can be known now."""
        return min(self._max_pages, self.num_asked + self._num_queued + self._num_in_flight())

    def skip(self, pages: Iterable[Page]) -> None:
        """Leaves out pages that earlier attempts at this crawl have finished."""
        for page in pages:
            self._num_redirects.setdefault(page.url, 0)

    def begin(self) -> None:
        """Queues the seeds, then the pages known."""
        for url in self._source.seeds:
            self._add(url)
        for page in self._known.values():
            if _is_worth_revisiting(page) and self._source.covers(page.url):
                self._add(page.url)

    def done(self, page: Page, links: Iterable[str]) -> None:
        """Takes a finished page into account and queues where it leads; also for pages of earlier attempts."""
        self._num_redirects.setdefault(page.url, 0)
        self.num_asked += page.was_asked_for
        is_redirect = page.status in REDIRECTS
        for url in links:
            if self._source.covers(url):
                self._add(url, self._num_redirects[page.url] + 1 if is_redirect else 0)

    def next_batches(self) -> list[Batch]:
        """Takes the batches that may start now."""
        started = [self._start(batch) for batch in self._lost]
        self._lost.clear()
        for fetcher, ready in enumerate(self._ready):
            while ready and self._of_fetcher[fetcher] < MAX_BATCHES_PER_FETCHER:
                size = min(self._batch_size, self._max_pages - self.num_asked - self._num_in_flight())
                if size <= 0:
                    return started
                host = next(iter(ready))
                queue = self._queues[host]
                requests = tuple(queue.popleft() for _ in range(min(size, len(queue))))
                self._num_queued -= len(requests)
                started.append(self._start(Batch(fetcher=fetcher, host=host, requests=requests)))
        return started

    def landed(self, batch: Batch, left: Iterable[str] = ()) -> None:
        """Takes note that a batch has come back; the pages that it did not begin go to the front of their queue."""
        not_begun = set(left)
        again = [request for request in batch.requests if request.url in not_begun]
        self._queues[batch.host].extendleft(reversed(again))
        self._num_queued += len(again)
        self._count(batch, -1)

    def render(self, batch: Batch, urls: Collection[str]) -> Batch:
        """Puts the pages of a batch that need a browser in flight once more."""
        requests = tuple(request for request in batch.requests if request.url in urls)
        return self._start(replace(batch, requests=requests))

    def lost(self, batch: Batch) -> tuple[PageRequest, ...]:
        """Plans a batch again whose process died. Larger ones are cut in two, to find a page that kills processes.

        Returns:
            The pages that are given up.
        """
        self._count(batch, -1)
        num_losses = batch.num_losses + 1
        if num_losses >= MAX_LOSSES and len(batch.requests) == 1:
            return batch.requests
        middle = (len(batch.requests) + 1) // 2 if num_losses >= MAX_LOSSES else len(batch.requests)
        for part in (batch.requests[:middle], batch.requests[middle:]):
            if part:
                self._lost.append(replace(batch, requests=part, num_losses=num_losses))
        return ()

    def _add(self, url: str, num_redirects: int = 0) -> None:
        if url in self._num_redirects:
            return
        self._num_redirects[url] = num_redirects
        request = PageRequest(url=url, known=self._known.get(url), num_redirects=num_redirects)
        host = host_of(url)
        self._queues.setdefault(host, deque()).append(request)
        self._num_queued += 1
        self._offer(host)

    def _start(self, batch: Batch) -> Batch:
        self._count(batch, 1)
        return batch

    def _count(self, batch: Batch, sign: int) -> None:
        self._of_host[batch.host] += sign
        self._of_fetcher[batch.fetcher] += sign
        self._num_flying += sign * len(batch.requests)
        self._offer(batch.host)

    def _offer(self, host: str) -> None:
        """Puts a host among the ready ones, or takes it out."""
        ready = self._ready[zlib.crc32(host.encode()) % len(self._ready)]
        if self._queues.get(host) and self._of_host[host] < MAX_BATCHES_PER_HOST:
            ready.setdefault(host)
        else:
            ready.pop(host, None)

    def _num_in_flight(self) -> int:
        return self._num_flying + sum(len(batch.requests) for batch in self._lost)


def _is_worth_revisiting(page: Page) -> bool:
    """Whether a page is asked for although perhaps nothing leads to it any more."""
    if page.outcome == "failed":
        return page.fails < MAX_FAILS
    return page.outcome in ("changed", "unchanged", "redirect")
