"""The frontier: what is known of every page of a source. It is the log `frontier/<source>`, one record per finished
batch.

A batch's documents are in a blob before its record names them, so a record is the moment at which its pages are done:
before it they are asked for again, after it never again in this crawl. Records:

    began      {crawl, attempt}                              an attempt at a crawl; refuses older attempts from now on
    batch      {crawl, attempt, pages, documents, elapsed_s} pages that are done
    finished   {crawl, attempt, documents, removed, length}  the crawl is complete; what it delivers again (`delivery`)
    abandoned  {crawl, attempt, reason}                      the crawl failed; its next attempt looks at all pages again
    confirmed  {consumer, length}                            a consumer has what the records before `length` gave

A crawl is named by the token of its step, the same over all attempts. `attempt` is `[epoch, attempt]`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from steps.scrape.pages import Page
from workflows.log import BlobRef, Draft, Fenced, Log, Record, Store, failpoint

Attempt = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CrawlState:
    """Where a crawl stands.

    Attributes:
        first: Index of the record from which its batches count.
        attempt: Its newest attempt: epoch and attempt.
        finished: Whether it is complete.
    """

    first: int
    attempt: Attempt
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Frontier:
    """The folded log. The pages are changed in place: a copy of all of them for each batch would cost the square of
    their number.

    Attributes:
        pages: What is known of each page, by canonical URL, in order of discovery.
        crawls: Where each crawl stands, by token.
        confirmed: Records whose documents each consumer has, counted from the first.
    """

    pages: dict[str, Page] = field(default_factory=dict)
    crawls: Mapping[str, CrawlState] = field(default_factory=dict)
    confirmed: Mapping[str, int] = field(default_factory=dict)


class FrontierFold:
    """How the records become a `Frontier`."""

    version: Final = 1

    def initial(self) -> Frontier:
        """Nothing is known."""
        return Frontier()

    def apply(self, state: Frontier, record: Record) -> Frontier:
        """The state after one more record."""
        if record.kind == "confirmed":
            consumer, length = str(record.data["consumer"]), int(record.data["length"])
            newest = max(length, state.confirmed.get(consumer, 0))
            return replace(state, confirmed={**state.confirmed, consumer: newest})
        if record.kind not in ("began", "batch", "finished", "abandoned"):
            return state
        token = str(record.data["crawl"])
        attempt = _attempt(record)
        known = state.crawls.get(token, CrawlState(record.index, attempt))
        match record.kind:
            case "began":
                crawl = replace(known, attempt=attempt)
            case "finished":
                crawl = replace(known, finished=True)
            case "abandoned":
                crawl = replace(known, first=record.index + 1)
            case _:
                crawl = known
        if record.kind == "batch":
            for page in batch_pages(record):
                state.pages[page.url] = _told(page, record, state.pages.get(page.url))
        return replace(state, crawls={**state.crawls, token: crawl})

    def dump(self, state: Frontier) -> Any:
        """The state as JSON."""
        return {
            "pages": [{"crawl": page.crawl, **page_row(page)} for page in state.pages.values()],
            "crawls": {
                token: [crawl.first, list(crawl.attempt), crawl.finished] for token, crawl in state.crawls.items()
            },
            "confirmed": dict(state.confirmed),
        }

    def load(self, data: Any) -> Frontier:
        """The state that `dump` gave."""
        pages = (_page(row, row["crawl"]) for row in data["pages"])
        crawls = {
            token: CrawlState(first, (attempt[0], attempt[1]), finished)
            for token, (first, attempt, finished) in data["crawls"].items()
        }
        return Frontier({page.url: page for page in pages}, crawls, dict(data["confirmed"]))


def _told(page: Page, record: Record, before: Page | None) -> Page:
    """Adds to a new row where its document is, and since when that has been said."""
    match page.outcome:
        case "changed":
            return replace(page, told_at=record.index, document_in=batch_documents(record))
        case "removed":
            return replace(page, told_at=record.index)
        case _:
            kept = before.document_in if before is not None and page.text_sha256 else None
            return replace(page, told_at=before.told_at if before is not None else 0, document_in=kept)


def open_frontier(store: Store, source: str) -> Log[Frontier]:
    """Opens the frontier of a source."""
    return Log(store, f"frontier/{source}", FrontierFold())


class CrawlLog:
    """One attempt at a crawl, as the frontier has it.

    Args:
        log: The frontier.
        token: Names the crawl.
        attempt: Epoch and attempt; an older one than the newest is refused.
    """

    def __init__(self, log: Log[Frontier], token: str, attempt: Attempt) -> None:
        self.log = log
        self.token = token
        self.attempt = attempt
        self._started = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self._started

    def begin(self) -> None:
        """Records the attempt. From now on older ones, that may still be alive somewhere, are refused.

        Raises:
            Fenced: A newer attempt has begun.
        """
        self._append("began", {})

    def finish(self, documents: Sequence[BlobRef], removed: Sequence[str], length: int) -> None:
        """Records that the crawl is complete.

        Args:
            documents: Blobs of earlier crawls' documents that this one delivers again.
            removed: Pages that earlier crawls found gone, told again.
            length: Records of the frontier that the result takes into account.
        """
        failpoint("scrape.finish.before-record")
        again = [_ref_json(ref) for ref in documents]
        self._append("finished", {"documents": again, "removed": list(removed), "length": length})

    def abandon(self, reason: str) -> None:
        """Records that the crawl failed, so that its next attempt asks for its pages again."""
        self._append("abandoned", {"reason": reason})

    def record_batch(self, pages: Sequence[Page], documents: BlobRef | None) -> None:
        """Records that pages are done.

        Args:
            pages: Their new rows.
            documents: The Parquet blob of those that changed, already stored.
        """
        failpoint("scrape.batch.before-record")
        self._append(
            "batch",
            {
                "pages": [page_row(page) for page in pages],
                "documents": None if documents is None else _ref_json(documents),
                "elapsed_s": round(self.elapsed_s(), 3),
            },
        )
        failpoint("scrape.batch.after-record")

    def batches(self) -> Iterator[Record]:
        """The batches of this crawl that count, of all attempts."""
        crawl = self.log.refresh().crawls.get(self.token)
        if crawl is None:
            return
        for record in self.log.records(crawl.first):
            if record.kind == "batch" and record.data["crawl"] == self.token:
                yield record

    def delivered_again(self) -> tuple[list[BlobRef], list[str], int]:
        """What the finished crawl delivers again, and the records it takes into account: the arguments of `finish`."""
        for record in self.log.records(self.log.state.crawls[self.token].first):
            if record.kind == "finished" and record.data["crawl"] == self.token:
                return [_ref(ref) for ref in record.data["documents"]], record.data["removed"], record.data["length"]
        raise LookupError(f"crawl {self.token} of {self.log.name} is not finished")

    def is_finished(self) -> bool:
        """Whether an attempt has completed the crawl."""
        crawl = self.log.refresh().crawls.get(self.token)
        return crawl is not None and crawl.finished

    def _append(self, kind: str, data: Mapping[str, Any]) -> None:
        draft = Draft(kind, {"crawl": self.token, "attempt": list(self.attempt), **data}, epoch=self.attempt[0])

        def decide(state: Frontier) -> Draft | None:
            crawl = state.crawls.get(self.token)
            if crawl is not None and crawl.attempt > self.attempt:
                raise Fenced(self.log.name, self.attempt[0], crawl.attempt[0])
            return draft

        self.log.append(decide)


def batch_pages(record: Record) -> list[Page]:
    """The rows of a batch."""
    return [_page(row, str(record.data["crawl"])) for row in record.data["pages"]]


def batch_documents(record: Record) -> BlobRef | None:
    """The documents of a batch."""
    found = record.data["documents"]
    return None if found is None else _ref(found)


def batch_elapsed(record: Record) -> tuple[Attempt, float]:
    """Which attempt wrote a batch, and how long it had been at work."""
    return _attempt(record), float(record.data["elapsed_s"])


def page_row(page: Page) -> dict[str, Any]:
    """A row as JSON, without what is empty."""
    row: dict[str, Any] = {"url": page.url, "outcome": page.outcome}
    for each in fields(page):
        value = getattr(page, each.name)
        if each.name in ("url", "crawl", "outcome") or not value:
            continue
        match value:
            case BlobRef():
                row[each.name] = _ref_json(value)
            case tuple():
                row[each.name] = list(value)
            case _:
                row[each.name] = value
    return row


def _page(row: Mapping[str, Any], crawl: str) -> Page:
    known = {each.name for each in fields(Page)}
    values = {name: value for name, value in row.items() if name in known}
    values["crawl"] = crawl
    values["links"] = tuple(row.get("links", ()))
    for name in ("links_in", "document_in"):
        values[name] = _ref(row[name]) if row.get(name) else None
    return Page(**values)


def _ref_json(ref: BlobRef) -> dict[str, Any]:
    return {"sha256": ref.sha256, "size": ref.size, "media_type": ref.media_type}


def _ref(data: Mapping[str, Any]) -> BlobRef:
    return BlobRef(str(data["sha256"]), int(data["size"]), str(data["media_type"]))


def _attempt(record: Record) -> Attempt:
    epoch, attempt = record.data["attempt"]
    return int(epoch), int(attempt)
