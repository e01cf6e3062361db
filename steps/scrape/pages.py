"""The records inside a crawl: what is known of a page, what is asked for, what came back, what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from workflows.log import BlobRef

Outcome = Literal["changed", "unchanged", "redirect", "removed", "rejected", "failed"]
"""What a crawl made of a page: `changed` gave a document, `removed` took one away, `failed` may pass and leaves all as
it was."""


REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is known of a page: a row of the frontier.

    Attributes:
        url: Canonical URL.
        crawl: The crawl that looked at it last.
        outcome: What that crawl made of it.
        status: Last HTTP status; 0 when there was no answer.
        reason: Why it gave no document, or empty: `robots`, `private_address`, `too_large`, `http_404`, ...
        etag: Validator for the next conditional request.
        last_modified: Validator for the next conditional request.
        body_sha256: Digest of the body as served.
        text_sha256: Digest of the text; empty when the page has no document.
        links: Where it leads, canonical; empty when `links_in` has them.
        links_in: JSON blob of the links of a batch by URL, for batches with many.
        num_bytes: Bytes received the last time.
        fetched_at: Unix seconds.
        fails: Crawls in a row in which it failed.
        rendered: Whether its text needs a browser.
        told_at: Index of the record that last gave its document or took it away; 0 if none did. Folded, not recorded.
        document_in: Parquet blob that holds its document. Folded, not recorded.
    """

    url: str
    crawl: str
    outcome: Outcome
    status: int = 0
    reason: str = ""
    etag: str = ""
    last_modified: str = ""
    body_sha256: str = ""
    text_sha256: str = ""
    links: tuple[str, ...] = ()
    links_in: BlobRef | None = None
    num_bytes: int = 0
    fetched_at: float = 0.0
    fails: int = 0
    rendered: bool = False
    told_at: int = 0
    document_in: BlobRef | None = None

    @property
    def has_answered(self) -> bool:
        """Whether the server gave the page, said that it is unchanged, or sent elsewhere."""
        return self.status == 200 or self.outcome in ("unchanged", "redirect")

    @property
    def was_asked_for(self) -> bool:
        """Whether a request left for it."""
        return self.status > 0 or self.reason in ("unreachable", "too_slow", "crashed")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A page to ask for.

    Attributes:
        url: Canonical URL.
        known: What earlier crawls know of it.
        num_redirects: Redirects that led here, one after another.
    """

    url: str
    known: Page | None = None
    num_redirects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedPage:
    """What came back for one page.

    Attributes:
        url: As asked for.
        status: HTTP status; 0 when there was no answer.
        reason: Why the page is not taken, or empty.
        detail: A sentence on the reason.
        body: The page, unpacked; rendered HTML when `rendered`.
        num_bytes: Bytes received.
        fetched_at: Unix seconds.
        content_type: As declared.
        etag: Validator for the next time.
        last_modified: Validator for the next time.
        location: Target of a redirect, absolute.
        robots_tag: X-Robots-Tag.
        body_sha256: Digest of the body as served; for a rendered page that of the page before it was rendered.
        rendered: Whether a browser made the body.
    """

    url: str
    status: int = 0
    reason: str = ""
    detail: str = ""
    body: bytes = field(default=b"", repr=False)
    num_bytes: int = 0
    fetched_at: float = 0.0
    content_type: str = ""
    etag: str = ""
    last_modified: str = ""
    location: str = ""
    robots_tag: str = ""
    body_sha256: str = ""
    rendered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedBatch:
    """What a batch brought.

    Attributes:
        pages: One per page that was asked for or refused.
        left: URLs not begun when the time of the batch was over.
    """

    pages: tuple[FetchedPage, ...]
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBatch:
    """What was made of a batch.

    Attributes:
        pages: New rows of the frontier; their links are in `links` or in the rows, as the record has them.
        links: All links by URL, to go on with.
        documents: Parquet blob of the new and changed documents, if there are any.
        num_documents: Rows in it.
        to_render: Pages that need a browser before they can be read.
        left: As in `FetchedBatch`.
        details: Sentences on the rejections by URL, for logs and messages.
    """

    pages: tuple[Page, ...]
    links: Mapping[str, tuple[str, ...]]
    documents: BlobRef | None
    num_documents: int
    to_render: tuple[FetchedPage, ...] = ()
    left: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """What a fetcher needs to know; see `ScrapeConfig` for the meaning."""

    allow_private: bool
    user_agent: str
    robots_token: str
    delay_s: float
    concurrency_per_host: int
    page_timeout_s: float
    max_attempts: int
    max_bytes: int
    batch_s: float
    routes: Mapping[str, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """What the reading of pages needs to know.

    Attributes:
        crawl: The crawl.
        storage: URI of the storage.
        sites: Sites that redirects may lead to; none: any.
        min_text_chars: A page with less text gives no document.
        drop: XPath of the parts that are not text of a page.
        volatile: Pattern of text that differs from one process of the server to the next; left out.
        can_render: Whether pages that are mostly script are set aside for a browser.
    """

    crawl: str
    storage: str
    sites: frozenset[str]
    min_text_chars: int
    drop: tuple[str, ...] = ()
    volatile: str = ""
    can_render: bool = False
