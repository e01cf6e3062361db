"""Reads fetched pages and decides what each of them is: a new document, an old one, none, or gone.

A Ray task, so that reading (the CPU work) runs beside fetching (the waiting). It stores the documents before it
returns, so whoever records the batch names a blob that exists. Running it twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steps.common.parquet import MEDIA_TYPE, parquet_bytes
from steps.scrape.errors import PageRefusedError
from steps.scrape.extract import Extracted, extract
from steps.scrape.pages import FetchedBatch, FetchedPage, Page, PageRequest, ReadBatch, ReadSettings
from steps.scrape.urls import canonical_url, doc_id, site_of
from workflows.log import BlobRef, Blobs, open_store

MAX_REDIRECTS = 5

INLINE_LINKS_BYTES = 16_384
"""Links of a batch beyond this go into a blob, so that the records stay small."""

_PASSING = frozenset(
    {
        "unreachable",
        "too_slow",
        "robots_unreachable",
        "host_down",
        "host_paused",
        "http_429",
        "browser_failed",
        "crashed",
    }
)
"""Reasons that may pass: what was known of the page stays."""

_MOVED = frozenset({301, 308})


def read_batch(requests: Sequence[PageRequest], fetched: FetchedBatch, settings: ReadSettings) -> ReadBatch:
    """Reads the pages of a batch and stores its documents.

    Args:
        requests: What was asked for.
        fetched: What came back.
        settings: How to read.
    """
    blobs = Blobs(open_store(settings.storage))
    asked = {request.url: request for request in requests}
    pages: list[Page] = []
    links: dict[str, tuple[str, ...]] = {}
    documents: list[dict[str, Any]] = []
    to_render: list[FetchedPage] = []
    details: dict[str, str] = {}
    for found in fetched.pages:
        request = asked[found.url]
        found, extracted = _read(found, request, settings)  # noqa: PLW2901 - the reading may add a reason
        if extracted is not None and extracted.needs_script and settings.can_render and not found.rendered:
            to_render.append(found)
            continue
        page = judge(request, found, extracted, settings)
        if page.outcome == "changed" and extracted is not None:
            documents.append(_document(page, found, extracted))
        if page.reason:
            details[page.url] = found.detail
        links[page.url] = stored_links(page, blobs)
        pages.append(page)
    return ReadBatch(
        pages=_with_stored_links(pages, blobs),
        links=links,
        documents=_store_documents(documents, blobs),
        num_documents=len(documents),
        to_render=tuple(to_render),
        left=fetched.left,
        details=details,
    )


def judge(request: PageRequest, found: FetchedPage, extracted: Extracted | None, settings: ReadSettings) -> Page:
    """Decides what a page is, from what is known of it and what came back. Pure.

    Args:
        request: What was asked for, with what is known.
        found: What came back.
        extracted: What the page says; None when there was nothing to read.
        settings: Limits.
    """
    known = request.known
    page = Page(
        url=request.url,
        crawl=settings.crawl,
        outcome="rejected",
        status=found.status,
        reason=found.reason,
        etag=found.etag,
        last_modified=found.last_modified,
        body_sha256=found.body_sha256,
        num_bytes=found.num_bytes,
        fetched_at=found.fetched_at,
        rendered=found.rendered,
    )
    if found.reason in _PASSING or found.reason.startswith("http_5"):
        return _as_known(page, known, outcome="failed", fails=1 + (known.fails if known else 0))
    if found.reason or (found.status == 304 and known is None):
        return _without_document(replace(page, reason=found.reason or "http_304"), known)
    if found.status == 304 or is_same_body(known, found):
        validators = {} if found.status == 304 else {"etag": found.etag, "last_modified": found.last_modified}
        return _as_known(page, known, outcome="unchanged", reason="", **validators)
    if found.location:
        return _redirected(page, request, found, settings)
    return _as_read(page, known, extracted, settings)


def _as_read(page: Page, known: Page | None, extracted: Extracted | None, settings: ReadSettings) -> Page:
    if extracted is None:
        return _without_document(replace(page, reason="no_text"), known)
    page = replace(page, links=extracted.links)
    if not extracted.index:
        return _without_document(replace(page, reason="noindex"), known)
    if len(extracted.text) < settings.min_text_chars:
        return _without_document(replace(page, reason="no_text"), known)
    text_sha256 = hashlib.sha256(extracted.text.encode()).hexdigest()
    same = known is not None and known.text_sha256 == text_sha256
    return replace(page, text_sha256=text_sha256, outcome="unchanged" if same else "changed")


def is_same_body(known: Page | None, found: FetchedPage) -> bool:
    """Whether the bytes are those known. Not believed of rendered pages: their text comes from elsewhere."""
    return (
        known is not None and known.body_sha256 != "" and known.body_sha256 == found.body_sha256 and not known.rendered
    )


def _read(found: FetchedPage, request: PageRequest, settings: ReadSettings) -> tuple[FetchedPage, Extracted | None]:
    if found.reason or found.status != 200 or is_same_body(request.known, found):
        return found, None
    try:
        extracted = extract(
            found.body,
            url=found.url,
            content_type=found.content_type,
            robots_tag=found.robots_tag,
            drop=settings.drop,
            volatile=settings.volatile,
        )
    except PageRefusedError as refusal:
        return replace(found, reason=refusal.reason, detail=refusal.detail), None
    return found, extracted


def _as_known(page: Page, known: Page | None, **changes: Any) -> Page:
    if known is None:
        return replace(page, **changes)
    kept = {
        name: getattr(known, name)
        for name in ("etag", "last_modified", "body_sha256", "text_sha256", "links", "links_in", "rendered")
    }
    return replace(page, **(kept | changes))


def _without_document(page: Page, known: Page | None) -> Page:
    had_one = known is not None and known.text_sha256 != ""
    # The validators go with it: they stood for a page that is not taken, and the next answer must be a whole one.
    return replace(page, outcome="removed" if had_one else "rejected", body_sha256="", etag="", last_modified="")


def _redirected(page: Page, request: PageRequest, found: FetchedPage, settings: ReadSettings) -> Page:
    target = canonical_url(found.location, request.url)
    if target is None or target == request.url:
        return _without_document(replace(page, reason="bad_redirect"), request.known)
    if request.num_redirects >= MAX_REDIRECTS:
        return _without_document(replace(page, reason="too_many_redirects"), request.known)
    if settings.sites and site_of(target) not in settings.sites:
        return _without_document(replace(page, reason="off_site"), request.known)
    had_one = request.known is not None and request.known.text_sha256 != ""
    if had_one and page.status not in _MOVED:
        return _as_known(page, request.known, outcome="redirect", links=(target,), links_in=None)
    return replace(page, outcome="removed" if had_one else "redirect", links=(target,))


def _document(page: Page, found: FetchedPage, extracted: Extracted) -> dict[str, Any]:
    return {
        "doc_id": doc_id(page.url),
        "url": page.url,
        "title": extracted.title,
        "text": extracted.text,
        "content_type": found.content_type.partition(";")[0].strip().lower() or "text/html",
        "fetched_at": found.fetched_at,
        "text_sha256": page.text_sha256,
    }


def _store_documents(documents: Sequence[Mapping[str, Any]], blobs: Blobs) -> BlobRef | None:
    if not documents:
        return None
    import pyarrow as pa

    from steps.common.results import RAW_DOCUMENTS

    rows = sorted(documents, key=lambda row: str(row["doc_id"]))
    schema = pa.schema([(name, pa.float64() if name == "fetched_at" else pa.string()) for name in RAW_DOCUMENTS])
    return blobs.put(parquet_bytes(pa.Table.from_pylist(rows, schema=schema)), MEDIA_TYPE)


def stored_links(page: Page, blobs: Blobs) -> tuple[str, ...]:
    """The links of a page, from its row or from the blob of its batch."""
    if page.links_in is None:
        return page.links
    return tuple(json.loads(blobs.get(page.links_in)).get(page.url, ()))


def _with_stored_links(pages: Sequence[Page], blobs: Blobs) -> tuple[Page, ...]:
    """Moves the links of a batch into one blob when they are many."""
    links = {page.url: list(page.links) for page in pages if page.links}
    data = json.dumps(links, separators=(",", ":")).encode()
    if len(data) <= INLINE_LINKS_BYTES:
        return tuple(pages)
    ref = blobs.put(data, "application/json")
    return tuple(replace(page, links=(), links_in=ref) if page.links else page for page in pages)
