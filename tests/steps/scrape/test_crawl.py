"""The whole step on a real Ray against real sites."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from steps.scrape import ScrapeConfig, run
from steps.scrape.documents import stored_links
from steps.scrape.errors import EmptyCrawlError, RobotsForbidAllError, SeedRefusedError, SeedUnreachableError
from steps.scrape.frontier import batch_pages, open_frontier
from steps.scrape.source import source_name

pytestmark = pytest.mark.ray

REPOSITORY = Path(__file__).parents[3]


def config_for(site: Any, **values: Any) -> ScrapeConfig:
    options = {"seeds": (site.url + "/",), "allow_private": True, "delay_s": 0.0, "batch_size": 4, **values}
    return ScrapeConfig.model_validate(options)


def publish(site: Any, make_article: Callable[..., str], num_pages: int) -> list[str]:
    """A site of linked articles with ETags: page n leads to 2n+1 and 2n+2."""
    names = ["/"] + [f"/{n}" for n in range(1, num_pages)]

    def serve(name: str, text: str) -> Callable[[web.Request], web.Response]:
        def page(request: web.Request) -> web.Response:
            etag = f'"{abs(hash(text))}"'
            if request.headers.get("If-None-Match") == etag:
                return web.Response(status=304, headers={"ETag": etag})
            return web.Response(text=text, content_type="text/html", headers={"ETag": etag})

        return page

    for n, name in enumerate(names):
        links = tuple(names[child] for child in (2 * n + 1, 2 * n + 2) if child < num_pages)
        site.pages[name] = serve(name, make_article(f"page {n}", links))
    site.change = lambda name, text: site.pages.__setitem__(name, serve(name, text))
    return names


def test_a_crawl_gives_every_page_once(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any
) -> None:
    names = publish(site, make_article, 20)
    ctx = surroundings()
    result = run(config_for(site), ctx)
    rows = rows_of(result, ctx)
    assert sorted(row["url"] for row in rows) == sorted(site.url + name for name in names)
    assert all(row["text"].startswith("page") and row["title"].startswith("page") for row in rows)
    assert (result.num_fetched, result.num_changed, result.num_unchanged) == (20, 20, 0)
    assert result.rejected == {}
    assert Counter(site.paths()) == Counter(names)
    assert result.num_bytes > 0
    assert run(config_for(site), surroundings()) == result, "a finished crawl only gives its result again"
    assert Counter(site.paths()) == Counter(names)


def test_a_second_crawl_emits_exactly_what_changed_and_keeps_the_link_graph(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any
) -> None:
    names = publish(site, make_article, 15)
    run(config_for(site), surroundings("first"))

    unchanged = run(config_for(site), surroundings("second"))
    assert (unchanged.documents, unchanged.num_unchanged, unchanged.num_bytes) == ((), 15, 0)

    site.change("/3", make_article("page 3, rewritten", ("/7", "/8", "/new")))
    site.pages["/new"] = make_article("a new page")
    del site.pages["/14"]
    ctx = surroundings("third")
    changed = run(config_for(site), ctx)
    assert sorted(row["url"] for row in rows_of(changed, ctx)) == [site.url + "/3", site.url + "/new"]
    assert changed.removed == (site.url + "/14",)
    assert (changed.num_changed, changed.num_unchanged) == (2, 13)

    state = open_frontier(ctx.store, source_name(config_for(site))).refresh()
    graph = {page.url.removeprefix(site.url): stored_links(page, ctx.blobs) for page in state.pages.values()}
    assert set(graph) == {*names, "/new"}
    assert graph["/1"] == (site.url + "/3", site.url + "/4"), "links of a page that answered 304 are kept"


def test_pages_that_cannot_be_taken_are_counted_by_reason_and_the_crawl_goes_on(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, respond: Any
) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.CancelledError):
            return response

    bomb = gzip.compress(b"\0" * (40 << 20))
    noise = b"<html>" + random.Random(0).randbytes(5000)
    site.pages |= {
        "/robots.txt": lambda _: web.Response(text="User-agent: *\nDisallow: /trap\n"),
        "/": make_article(
            "start",
            (
                "/endless",
                "/noise",
                "/inside",
                "/bomb",
                "/image",
                "/gone",
                "/trap/1",
                "/empty",
                "/loop",
                "/good",
                "/moved",
            ),
        ),
        "/endless": drip,
        "/noise": lambda _: web.Response(body=noise, content_type="text/html"),
        "/inside": lambda _: web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/"}),
        "/bomb": lambda _: web.Response(body=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "text/html"}),
        "/image": lambda _: web.Response(body=b"x", content_type="image/png"),
        "/empty": "<html></html>",
        "/loop": lambda _: web.Response(status=302, headers={"Location": "/loop"}),
        "/moved": lambda _: web.Response(status=301, headers={"Location": "/target"}),
        "/target": make_article("target"),
        "/good": make_article("good"),
        "/trap/1": make_article("trap", ("/trap/2",)),
    }
    result = run(config_for(site, page_timeout_s=4.0, max_bytes=1 << 25), surroundings())
    assert result.rejected == {
        "bad_encoding": 1,
        "bad_redirect": 1,
        "bad_type": 1,
        "compression_ratio": 1,
        "http_404": 1,
        "no_text": 1,
        "private_address": 1,
        "robots": 1,
        "too_slow": 1,
    }
    assert result.num_changed == 3
    assert not any(path.startswith("/trap") for path in site.paths())


def test_each_host_has_its_own_pace_whatever_the_number_of_fetchers(
    ray_head: str, make_site: Any, make_article: Any, surroundings: Any
) -> None:
    sites = [make_site() for _ in range(3)]
    for each in sites:
        publish(each, make_article, 6)
        each.pages["/robots.txt"] = lambda _: web.Response(text="User-agent: *\nCrawl-delay: 0.25\n")
    config = config_for(sites[0], seeds=tuple(each.url + "/" for each in sites), num_fetchers=2, batch_size=2)
    result = run(config, surroundings())
    assert result.num_changed == 18
    for each in sites:
        pages = [asked for asked in each.log if asked.path != "/robots.txt"]
        assert len(pages) == 6
        assert all(later.began - earlier.began >= 0.25 for earlier, later in itertools.pairwise(pages))


def _pid_of_client(request: web.Request) -> int:
    port = request.transport.get_extra_info("peername")[1]  # type: ignore[union-attr]
    return next(
        connection.pid
        for connection in psutil.net_connections("tcp")
        if connection.laddr and connection.laddr.port == port and connection.pid and connection.pid != os.getpid()
    )


def test_kill_9_of_a_fetcher_loses_no_page_and_doubles_no_document(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any
) -> None:
    names = publish(site, make_article, 24)
    killed: list[int] = []
    for victim in ("/5", "/20"):

        def deadly(request: web.Request, serve: Any = site.pages[victim], name: str = victim) -> Any:
            if len(site.asked(name)) == 0:
                killed.append(_pid_of_client(request))
                os.kill(killed[-1], signal.SIGKILL)
            return serve(request)

        site.pages[victim] = deadly
    ctx = surroundings()
    result = run(config_for(site), ctx)
    assert len(set(killed)) == 2
    assert sorted(row["url"] for row in rows_of(result, ctx)) == sorted(site.url + name for name in names)
    assert result.rejected == {}


def test_a_crash_before_a_record_is_taken_up_where_it_was(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any, interrupted: Any
) -> None:
    names = publish(site, make_article, 24)
    with pytest.raises(interrupted):
        run(config_for(site), surroundings(crash_at_fence=2))
    log = open_frontier(surroundings("look").store, source_name(config_for(site)))
    done = {page.url for record in log.records() if record.kind == "batch" for page in batch_pages(record)}
    assert 0 < len(done) < 24
    asked_before = Counter(site.paths())
    ctx = surroundings()
    result = run(config_for(site), ctx)
    urls = [row["url"] for row in rows_of(result, ctx)]
    assert sorted(urls) == sorted(site.url + name for name in names)
    again = Counter(site.paths()) - asked_before
    assert not {site.url + path for path in again} & done, "what is recorded is not asked for again"
    assert result.num_changed == 24


def test_kill_9_of_the_whole_step_is_taken_up_where_it_was(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any, tmp_path: Path
) -> None:
    names = publish(site, make_article, 24)
    script = textwrap.dedent(
        """
        import sys, ray
        from steps.common.alone import AloneContext
        from steps.scrape import ScrapeConfig, run
        address, storage, config = sys.argv[1:]
        ray.init(address=address, namespace="tests", log_to_driver=False, configure_logging=False)
        with AloneContext(storage, step="scrape", inputs="first") as ctx:
            run(ScrapeConfig.model_validate_json(config), ctx)
        """
    )
    command = [sys.executable, "-c", script, ray_head, str(tmp_path / "storage"), config_for(site).model_dump_json()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "EVERLOOP_FAILPOINT": "scrape.batch.after-record@3=kill",
    }
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    ctx = surroundings()
    assert ctx.attempt == 2
    result = run(config_for(site), ctx)
    assert sorted(row["url"] for row in rows_of(result, ctx)) == sorted(site.url + name for name in names)


def test_an_unreachable_seed_fails_by_name_and_works_after_repair(
    ray_head: str, site: Any, make_article: Any, surroundings: Any
) -> None:
    site.pages["/"] = lambda _: web.Response(status=503)
    config = config_for(site, max_attempts=1)
    with pytest.raises(SeedUnreachableError, match=site.url):
        run(config, surroundings())
    publish(site, make_article, 3)
    assert run(config, surroundings()).num_changed == 3


def test_robots_that_forbid_all_fail_by_name(ray_head: str, site: Any, make_article: Any, surroundings: Any) -> None:
    site.pages |= {"/": make_article("a"), "/robots.txt": lambda _: web.Response(text="User-agent: *\nDisallow: /\n")}
    with pytest.raises(RobotsForbidAllError, match=f"{site.url}/robots.txt"):
        run(config_for(site), surroundings())
    assert site.paths() == []


def test_a_seed_inside_is_refused_by_name(ray_head: str, site: Any, surroundings: Any) -> None:
    with pytest.raises(SeedRefusedError, match=r"port|127\.0\.0\.1"):
        run(config_for(site, allow_private=False), surroundings())
    with pytest.raises(SeedRefusedError, match="metadata"):
        run(config_for(site, seeds=("http://169.254.169.254/latest/",)), surroundings("metadata"))
    assert site.log == []


def test_a_crawl_without_any_document_fails_by_name_and_works_after_repair(
    ray_head: str, site: Any, make_article: Any, surroundings: Any
) -> None:
    site.pages["/"] = "<html><body>too short</body></html>"
    with pytest.raises(EmptyCrawlError, match="no_text: 1"):
        run(config_for(site), surroundings())
    publish(site, make_article, 3)
    assert run(config_for(site), surroundings()).num_changed == 3


def test_one_seed_that_is_down_does_not_stop_the_others(
    ray_head: str, site: Any, make_site: Any, make_article: Any, surroundings: Any
) -> None:
    down = make_site()
    down.stop_listening()
    publish(site, make_article, 4)
    result = run(config_for(site, seeds=(down.url + "/", site.url + "/"), max_attempts=1), surroundings())
    assert (result.num_changed, result.rejected) == (4, {"robots_unreachable": 1})


def test_no_more_pages_are_asked_for_than_allowed_and_the_same_ones_again(
    ray_head: str, site: Any, make_article: Any, surroundings: Any
) -> None:
    publish(site, make_article, 30)
    first = run(config_for(site, max_pages=11), surroundings("first"))
    assert first.num_fetched == len(site.paths()) == 11
    second = run(config_for(site, max_pages=11), surroundings("second"))
    assert (second.num_fetched, second.documents) == (11, ())


def test_this_pythons_documentation_comes_through_http(ray_head: str, surroundings: Any, rows_of: Any) -> None:
    config = ScrapeConfig(max_pages=24, batch_size=8)
    ctx = surroundings("first")
    rows = rows_of(run(config, ctx), ctx)
    assert all(row["url"].startswith("http://pydoc.localhost/") for row in rows)
    assert sum(len(row["text"]) for row in rows) / len(rows) > 1000
    assert not any("| |" in row["text"] or "\xa0" in row["text"] for row in rows)
    # Another server, on another port.
    assert run(config, surroundings("second")).documents == ()


def test_the_bundled_site_gives_its_thirty_pages(ray_head: str, surroundings: Any, rows_of: Any) -> None:
    ctx = surroundings("first")
    result = run(ScrapeConfig(source="bundled"), ctx)
    assert sum("index" not in row["url"] and not row["url"].endswith("/") for row in rows_of(result, ctx)) == 30
