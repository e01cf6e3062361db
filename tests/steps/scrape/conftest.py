"""A real web site on loopback that notes what is asked of it, and the surroundings of a step."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from steps.common.alone import AloneContext
from steps.common.results import CrawlResult

Answer = web.StreamResponse | str
Handler = Callable[[web.Request], "Answer | Awaitable[Answer]"]


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it."""

    path: str
    began: float
    ended: float
    status: int
    headers: Mapping[str, str] = field(repr=False)


class Site:
    """Pages by path: text, or a function of the request. Unknown paths are 404."""

    def __init__(self) -> None:
        self.pages: dict[str, str | Handler] = {}
        self.log: list[Asked] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner, self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[Asked]:
        return [asked for asked in self.log if asked.path == path]

    def paths(self) -> list[str]:
        return [asked.path for asked in self.log if asked.path != "/robots.txt"]

    def stop_listening(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, int(runner.addresses[0][1])

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        page = self.pages.get(request.path_qs)
        status = 500
        try:
            if page is None:
                answer: Any = web.Response(status=404, text="no such page")
            elif callable(page):
                answer = page(request)
                if asyncio.iscoroutine(answer):
                    answer = await answer
            else:
                answer = page
            if isinstance(answer, str):
                answer = html_response(answer)
            status = answer.status
            return answer  # type: ignore[no-any-return]
        finally:
            self.log.append(Asked(request.path_qs, began, time.monotonic(), status, dict(request.headers)))


def html_response(text: str, **options: Any) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8", **options)


PROSE = (
    "The harbour wakes before the town does, and the first boats are far out when the bakery opens its shutters. "
    "Gulls follow them in a loose cloud like smoke, and on the quay a man mends nets without looking at his hands. "
)


def article(name: str, links: tuple[str, ...] = (), extra: str = "") -> str:
    """A page with enough text of its own to be a document."""
    anchors = " ".join(f'<a href="{link}">{link}</a>' for link in links)
    return (
        f"<html><head><title>{name}</title></head><body><main><h1>{name}</h1>"
        f"<p>This page is called {name}. {PROSE}</p><p>{extra}</p></main><div>{anchors}</div></body></html>"
    )


@pytest.fixture
def make_article() -> Callable[..., str]:
    return article


@pytest.fixture
def respond() -> Callable[..., web.Response]:
    return html_response


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def make_site() -> Iterator[Callable[[], Site]]:
    sites: list[Site] = []

    def make() -> Site:
        sites.append(Site())
        return sites[-1]

    yield make
    for each in sites:
        each.close()


class InterruptedCrawlError(Exception):
    """Stands for a crash before a record."""


class Surroundings(AloneContext):
    """A context whose `fence`, which stands before each record, can be made to crash at the n-th call."""

    crash_at_fence: int | None = None

    def fence(self) -> None:
        if self.crash_at_fence is not None:
            self.crash_at_fence -= 1
            if self.crash_at_fence < 0:
                raise InterruptedCrawlError


@pytest.fixture
def surroundings(tmp_path: Path) -> Callable[..., Surroundings]:
    """Makes the context of an attempt at a crawl; equal names are attempts at the same one."""

    def make(crawl: str = "first", **options: Any) -> Surroundings:
        scratch = tmp_path / f"scratch-{time.monotonic_ns()}"
        ctx = Surroundings(str(tmp_path / "storage"), step="scrape", inputs=crawl, scratch=scratch)
        for name, value in options.items():
            setattr(ctx, name, value)
        return ctx

    return make


@pytest.fixture
def rows_of() -> Callable[[CrawlResult, AloneContext], list[dict[str, Any]]]:
    """Reads the documents of a crawl."""
    from steps.common.parquet import parquet_table

    def rows(result: CrawlResult, ctx: AloneContext) -> list[dict[str, Any]]:
        return [row for ref in result.documents for row in parquet_table(ctx.blobs.get(ref)).to_pylist()]

    return rows


@pytest.fixture
def interrupted() -> type[Exception]:
    return InterruptedCrawlError
