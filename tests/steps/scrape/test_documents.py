from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from steps.common.parquet import parquet_table
from steps.common.results import RAW_DOCUMENTS
from steps.scrape.documents import judge, read_batch
from steps.scrape.extract import Extracted
from steps.scrape.pages import FetchedBatch, FetchedPage, Page, PageRequest, ReadSettings
from workflows.log import Blobs, open_store

URL = "http://example.com/a"
SETTINGS = ReadSettings(crawl="second", storage="", sites=frozenset({"example.com"}), min_text_chars=10)
KNOWN = Page(
    url=URL,
    crawl="first",
    outcome="changed",
    status=200,
    etag='"1"',
    body_sha256="b" * 64,
    text_sha256="t" * 64,
    links=("http://example.com/b",),
)
OK = FetchedPage(url=URL, status=200, etag='"2"', body_sha256="c" * 64, num_bytes=10, fetched_at=5.0)
TEXT = Extracted(
    title="A", text="some text of the page", links=("http://example.com/c",), index=True, needs_script=False
)


def decide(
    found: FetchedPage, known: Page | None = None, extracted: Extracted | None = None, redirects: int = 0
) -> Page:
    return judge(PageRequest(url=URL, known=known, num_redirects=redirects), found, extracted, SETTINGS)


def test_a_new_page_is_a_change() -> None:
    page = decide(OK, None, TEXT)
    assert (page.outcome, page.crawl, page.etag, page.links) == ("changed", "second", '"2"', ("http://example.com/c",))


def test_a_304_keeps_what_is_known_and_its_links() -> None:
    page = decide(FetchedPage(url=URL, status=304, etag='"other"'), KNOWN)
    assert page.outcome == "unchanged"
    assert (page.etag, page.text_sha256, page.links) == (KNOWN.etag, KNOWN.text_sha256, KNOWN.links)


def test_equal_bytes_are_unchanged_with_new_validators() -> None:
    page = decide(replace(OK, body_sha256=KNOWN.body_sha256), KNOWN)
    assert (page.outcome, page.etag, page.links) == ("unchanged", '"2"', KNOWN.links)


def test_equal_text_in_other_bytes_is_unchanged_with_new_links() -> None:
    first = decide(OK, None, TEXT)
    page = decide(replace(OK, body_sha256="d" * 64), first, replace(TEXT, links=("http://example.com/new",)))
    assert (page.outcome, page.links) == ("unchanged", ("http://example.com/new",))


def test_equal_bytes_of_a_rendered_page_prove_nothing() -> None:
    known = replace(KNOWN, rendered=True)
    page = decide(replace(OK, body_sha256=KNOWN.body_sha256, rendered=True), known, TEXT)
    assert page.outcome == "changed"


@pytest.mark.parametrize("status", [404, 410])
def test_a_known_page_that_is_gone_is_removed(status: int) -> None:
    gone = FetchedPage(url=URL, status=status, reason=f"http_{status}")
    assert decide(gone, KNOWN).outcome == "removed"
    assert decide(gone, None).outcome == "rejected"
    assert decide(gone, KNOWN).text_sha256 == ""


@pytest.mark.parametrize(
    "reason", ["http_503", "http_429", "unreachable", "too_slow", "host_down", "robots_unreachable"]
)
def test_trouble_that_may_pass_leaves_what_is_known(reason: str) -> None:
    page = decide(FetchedPage(url=URL, status=0, reason=reason), replace(KNOWN, fails=1))
    assert (page.outcome, page.fails, page.text_sha256, page.etag) == ("failed", 2, KNOWN.text_sha256, KNOWN.etag)


def test_a_page_that_lost_its_text_is_removed() -> None:
    assert decide(OK, KNOWN, replace(TEXT, text="short")).reason == "no_text"
    assert decide(OK, KNOWN, replace(TEXT, text="short")).outcome == "removed"
    assert decide(OK, KNOWN, replace(TEXT, index=False)).reason == "noindex"
    assert decide(OK, None, replace(TEXT, index=False)).outcome == "rejected"


def test_a_page_without_a_document_is_asked_for_without_validators() -> None:
    page = decide(OK, None, replace(TEXT, text=""))
    assert (page.etag, page.last_modified, page.body_sha256) == ("", "", "")
    assert page.links == TEXT.links


def test_a_redirect_leads_on_as_a_page_of_its_own() -> None:
    page = decide(FetchedPage(url=URL, status=302, location="http://example.com/b#x"))
    assert (page.outcome, page.links, page.reason) == ("redirect", ("http://example.com/b",), "")


@pytest.mark.parametrize(
    ("location", "redirects", "reason"),
    [
        ("http://elsewhere.org/", 0, "off_site"),
        ("http://example.com/b", 5, "too_many_redirects"),
        (URL, 0, "bad_redirect"),
        ("mailto:a@example.com", 0, "bad_redirect"),
    ],
)
def test_a_redirect_that_is_not_followed_says_why(location: str, redirects: int, reason: str) -> None:
    page = decide(FetchedPage(url=URL, status=301, location=location), None, None, redirects)
    assert (page.outcome, page.reason, page.links) == ("rejected", reason, ())


def test_a_known_page_that_moved_for_good_is_removed_and_followed() -> None:
    page = decide(FetchedPage(url=URL, status=301, location="http://example.com/b"), KNOWN)
    assert (page.outcome, page.links) == ("removed", ("http://example.com/b",))
    page = decide(FetchedPage(url=URL, status=302, location="http://example.com/b"), KNOWN)
    assert (page.outcome, page.text_sha256) == ("redirect", KNOWN.text_sha256)


def test_a_batch_is_stored_before_it_is_returned_and_equal_batches_are_equal(tmp_path: Path) -> None:
    settings = replace(SETTINGS, storage=f"file://{tmp_path}")
    body = b"<html><title>A</title><body><table><tr><td>enough text for a document</td></tr></table></body></html>"
    urls = [f"http://example.com/{n}" for n in range(3)]
    fetched = FetchedBatch(
        pages=tuple(
            FetchedPage(
                url=url, status=200, body=body, body_sha256=f"{n}" * 64, content_type="text/html", fetched_at=1.0
            )
            for n, url in enumerate(urls)
        ),
        left=("http://example.com/later",),
    )
    requests = [PageRequest(url=url) for url in urls]
    read = read_batch(requests, fetched, settings)
    assert read.documents is not None
    table = parquet_table(Blobs(open_store(settings.storage)).get(read.documents))
    assert tuple(table.column_names) == RAW_DOCUMENTS
    assert sorted(table["url"].to_pylist()) == urls
    assert read.num_documents == 3
    assert read.left == ("http://example.com/later",)
    backwards = replace(fetched, pages=fetched.pages[::-1])
    assert read_batch(requests, backwards, settings).documents == read.documents


def test_many_links_go_into_a_blob_and_come_back_after_a_304(tmp_path: Path) -> None:
    settings = replace(SETTINGS, storage=f"file://{tmp_path}")
    links = [f"http://example.com/a-rather-long-name-of-a-page-{n}" for n in range(600)]
    body = "<p>text enough for this</p>" + "".join(f"<a href='{link}'>x</a>" for link in links)
    page = FetchedPage(url=URL, status=200, body=body.encode(), body_sha256="c" * 64)
    first = read_batch([PageRequest(url=URL)], FetchedBatch(pages=(page,)), settings)
    assert first.links[URL] == tuple(links)
    assert first.pages[0].links == ()
    assert first.pages[0].links_in is not None
    same = FetchedBatch(pages=(FetchedPage(url=URL, status=304),))
    second = read_batch([PageRequest(url=URL, known=first.pages[0])], same, settings)
    assert second.links[URL] == tuple(links)


def test_pages_of_bytes_that_are_no_text_are_rejected_and_the_batch_goes_on(tmp_path: Path) -> None:
    settings = replace(SETTINGS, storage=f"file://{tmp_path}")
    bad = FetchedPage(url=URL, status=200, body=bytes(range(256)) * 9, body_sha256="e" * 64)
    read = read_batch([PageRequest(url=URL)], FetchedBatch(pages=(bad,)), settings)
    assert [page.reason for page in read.pages] == ["bad_encoding"]
    assert read.documents is None
