from __future__ import annotations

import asyncio
import gzip
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from steps.scrape.fetcher import Fetcher
from steps.scrape.pages import FetchedPage, FetchSettings, Page, PageRequest


def settings(**values: Any) -> FetchSettings:
    options: dict[str, Any] = {
        "allow_private": True,
        "user_agent": "Everloop/0.1",
        "robots_token": "Everloop",
        "delay_s": 0.0,
        "concurrency_per_host": 2,
        "page_timeout_s": 10.0,
        "max_attempts": 3,
        "max_bytes": 1 << 21,
        "batch_s": 30.0,
        **values,
    }
    return FetchSettings(**options)


@asynccontextmanager
async def fetcher(lookup: Any = None, **values: Any) -> AsyncIterator[Fetcher]:
    made = Fetcher(settings(**values), lookup)
    try:
        yield made
    finally:
        await made.close()


async def fetch(site: Any, *paths: str, **values: Any) -> dict[str, FetchedPage]:
    async with fetcher(**values) as made:
        batch = await made.fetch([PageRequest(url=site.url + path) for path in paths])
    return {page.url.removeprefix(site.url): page for page in batch.pages}


async def test_a_page_comes_with_its_validators_and_we_say_who_we_are(site: Any, respond: Callable[..., Any]) -> None:
    site.pages["/"] = lambda _: respond(
        "hello", headers={"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    )
    page = (await fetch(site, "/"))["/"]
    assert (page.status, page.body, page.etag) == (200, b"hello", '"1"')
    assert page.last_modified.startswith("Mon")
    assert {asked.headers["User-Agent"] for asked in site.log} == {"Everloop/0.1"}
    assert not any("Cookie" in asked.headers for asked in site.log)


async def test_a_known_page_is_asked_for_conditionally(site: Any, respond: Callable[..., Any]) -> None:
    def page(request: web.Request) -> web.Response:
        same = request.headers.get("If-None-Match") == '"1"'
        return web.Response(status=304) if same else respond("new")

    site.pages["/"] = page
    known = Page(url=site.url + "/", crawl="c", outcome="changed", etag='"1"', last_modified="x")
    async with fetcher() as made:
        batch = await made.fetch([PageRequest(url=known.url, known=known)])
    assert [found.status for found in batch.pages] == [304]
    assert site.asked("/")[0].headers["If-Modified-Since"] == "x"


async def test_disallowed_paths_are_never_asked_for(site: Any) -> None:
    site.pages["/robots.txt"] = lambda _: web.Response(text="User-agent: *\nDisallow: /trap\n")
    site.pages["/open"] = site.pages["/trap/a"] = "page"
    pages = await fetch(site, "/open", "/trap/a", "/trap/b")
    assert (pages["/open"].status, pages["/trap/a"].reason, pages["/trap/b"].reason) == (200, "robots", "robots")
    assert site.paths() == ["/open"]
    assert len(site.asked("/robots.txt")) == 1


async def test_robots_that_cannot_be_had_forbid_all(site: Any) -> None:
    site.pages["/robots.txt"] = lambda _: web.Response(status=503)
    site.pages["/"] = "page"
    page = (await fetch(site, "/"))["/"]
    assert page.reason == "robots_unreachable"
    assert "503" in page.detail
    assert site.paths() == []


async def test_robots_are_followed_through_redirects_but_not_to_forbidden_addresses(site: Any) -> None:
    site.pages["/robots.txt"] = lambda _: web.Response(status=301, headers={"Location": "/real-robots"})
    site.pages["/real-robots"] = lambda _: web.Response(text="User-agent: *\nDisallow: /\n")
    assert (await fetch(site, "/"))["/"].reason == "robots"
    site.pages["/robots.txt"] = lambda _: web.Response(status=301, headers={"Location": "http://169.254.169.254/"})
    assert (await fetch(site, "/"))["/"].reason == "robots_unreachable"


async def test_the_crawl_delay_of_robots_is_kept(site: Any) -> None:
    site.pages["/robots.txt"] = lambda _: web.Response(text="User-agent: *\nCrawl-delay: 0.3\n")
    paths = [f"/{n}" for n in range(4)]
    site.pages |= dict.fromkeys(paths, "page")
    async with fetcher(concurrency_per_host=8) as made:
        # Two batches at once share the host's gate.
        requests = [PageRequest(url=site.url + path) for path in paths]
        await asyncio.gather(made.fetch(requests[:2]), made.fetch(requests[2:]))
    pages = [asked for asked in site.log if asked.path in paths]
    assert len(pages) == 4
    assert all(later.began - earlier.began >= 0.3 for earlier, later in itertools.pairwise(pages))


async def test_an_absurd_crawl_delay_rejects_the_host(site: Any) -> None:
    site.pages["/robots.txt"] = lambda _: web.Response(text="User-agent: *\nCrawl-delay: 86400\n")
    assert (await fetch(site, "/"))["/"].reason == "crawl_delay"


@pytest.mark.parametrize("status", [429, 503])
async def test_nobody_asks_inside_a_retry_after(site: Any, status: int) -> None:
    answers = iter([web.Response(status=status, headers={"Retry-After": "1"})])
    site.pages["/busy"] = lambda _: next(answers, "at last")
    site.pages |= {f"/{n}": "page" for n in range(6)}
    pages = await fetch(site, "/busy", *(f"/{n}" for n in range(6)))
    assert all(page.status == 200 for page in pages.values())
    refused = site.asked("/busy")[0]
    # One request may have been on its way already when the answer came.
    inside = [asked for asked in site.log if refused.ended + 0.05 < asked.began < refused.ended + 0.99]
    assert inside == []
    assert len(site.asked("/busy")) == 2


async def test_a_long_retry_after_closes_the_host_for_this_crawl(site: Any) -> None:
    site.pages["/a"] = lambda _: web.Response(status=429, headers={"Retry-After": "3600"})
    site.pages["/b"] = "page"
    pages = await fetch(site, "/a", "/b", concurrency_per_host=1)
    assert {page.reason for page in pages.values()} <= {"http_429", "host_paused"}
    assert site.paths() == ["/a"]


async def test_a_server_error_is_tried_again_and_then_rejected(site: Any) -> None:
    site.pages["/down"] = lambda _: web.Response(status=500)
    page = (await fetch(site, "/down", max_attempts=3))["/down"]
    assert (page.status, page.reason) == (500, "http_500")
    assert len(site.asked("/down")) == 3


async def test_a_host_that_only_fails_is_left_alone(site: Any) -> None:
    paths = [f"/{n}" for n in range(20)]
    site.pages |= dict.fromkeys(paths, lambda _: web.Response(status=500))
    pages = await fetch(site, *paths, max_attempts=1, concurrency_per_host=1)
    assert [page.reason for page in pages.values()].count("host_down") == 15
    assert len(site.paths()) == 5


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/next", ("", "/next")),
        ("http://169.254.169.254/latest/meta-data/", ("private_address", "")),
        ("http://2852039166/", ("private_address", "")),
        ("http://[::ffff:169.254.169.254]/", ("private_address", "")),
        ("file:///etc/passwd", ("bad_url", "")),
        ("", ("bad_redirect", "")),
    ],
)
async def test_redirects_are_judged_and_not_followed(site: Any, location: str, expected: tuple[str, str]) -> None:
    site.pages["/"] = lambda _: web.Response(status=302, headers={"Location": location} if location else {})
    page = (await fetch(site, "/"))["/"]
    assert (page.reason, page.location.removeprefix(site.url)) == expected
    assert site.paths() == ["/"]


async def test_an_address_that_is_not_allowed_is_never_connected_to(site: Any) -> None:
    site.pages["/"] = "page"
    page = (await fetch(site, "/", allow_private=False))["/"]
    assert page.reason == "bad_url"  # an odd port is refused before the address is looked at
    assert site.log == []


async def test_a_name_that_leads_inside_is_refused(site: Any) -> None:
    async def lookup(host: str) -> list[str]:
        return ["127.0.0.1"]

    async with fetcher(lookup, allow_private=False) as made:
        batch = await made.fetch([PageRequest(url="http://inside.example.com/")])
    assert [page.reason for page in batch.pages] == ["private_address"]
    assert site.log == []


async def test_a_gzip_bomb_is_rejected_and_the_batch_goes_on(site: Any) -> None:
    bomb = gzip.compress(b"\0" * (40 << 20))
    site.pages["/bomb"] = lambda _: web.Response(
        body=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "text/html"}
    )
    site.pages["/good"] = "page"
    pages = await fetch(site, "/bomb", "/good", max_bytes=1 << 25)
    assert (pages["/bomb"].reason, pages["/bomb"].body) == ("compression_ratio", b"")
    assert pages["/good"].status == 200


async def _pour(request: web.Request, piece: bytes, pause_s: float) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/html"})
    await response.prepare(request)
    try:
        while True:
            await response.write(piece)
            await asyncio.sleep(pause_s)
    except (ConnectionError, asyncio.CancelledError):
        return response


async def test_an_endless_page_is_cut_off_by_size_or_by_time(site: Any) -> None:
    site.pages["/flood"] = lambda request: _pour(request, b"x" * 65536, 0)
    site.pages["/drip"] = lambda request: _pour(request, b"x", 0.05)
    site.pages["/good"] = "page"
    began = time.monotonic()
    pages = await fetch(site, "/flood", "/drip", "/good", page_timeout_s=1.0)
    assert (pages["/flood"].reason, pages["/drip"].reason) == ("too_large", "too_slow")
    assert pages["/good"].status == 200
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("content_type", ["image/png", "application/zip"])
async def test_other_types_than_text_are_rejected(site: Any, content_type: str) -> None:
    site.pages["/"] = lambda _: web.Response(body=b"x", content_type=content_type)
    assert (await fetch(site, "/"))["/"].reason == "bad_type"


async def test_a_host_that_does_not_answer_is_unreachable(make_site: Callable[[], Any]) -> None:
    gone = make_site()
    gone.pages["/robots.txt"] = "User-agent: *"
    async with fetcher(max_attempts=2) as made:
        await made.fetch([PageRequest(url=gone.url + "/first")])
        gone.stop_listening()
        batch = await made.fetch([PageRequest(url=gone.url + "/second")])
    assert [page.reason for page in batch.pages] == ["unreachable"]


async def test_a_batch_hands_back_what_it_had_no_time_for(site: Any) -> None:
    async def slow(_: web.Request) -> str:
        await asyncio.sleep(0.2)
        return "page"

    site.pages |= {f"/{n}": slow for n in range(6)}
    requests = [PageRequest(url=f"{site.url}/{n}") for n in range(6)]
    async with fetcher(batch_s=0.0, concurrency_per_host=1) as made:
        batch = await made.fetch(requests)
    assert [page.url for page in batch.pages] == [requests[0].url]
    assert batch.left == tuple(request.url for request in requests[1:])
