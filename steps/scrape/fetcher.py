"""Fetches pages: politely, within limits, and only from where it may.

Takes batches of `PageRequest`; gives `FetchedBatch`. `Fetcher` is an ordinary async class; `steps.scrape.crawl` makes
Ray actors of it and always sends a host to the same one, so that its `HostGate` sees all requests to that host. It
keeps nothing that must survive: an actor that dies is replaced, and what was not recorded is asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from email.utils import parsedate_to_datetime

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from yarl import URL

from steps.scrape.address import AddressPolicy, Lookup, PinnedResolver
from steps.scrape.download import ACCEPT_ENCODING, check_type, read_body
from steps.scrape.errors import AddressRefusedError, PageRefusedError
from steps.scrape.pages import REDIRECTS, FetchedBatch, FetchedPage, FetchSettings, PageRequest
from steps.scrape.politeness import MAX_PAUSE_S, HostGate
from steps.scrape.robots import MAX_ROBOTS_BYTES, MAX_ROBOTS_REDIRECTS, RobotsRules, read_rules
from steps.scrape.urls import host_of

logger = logging.getLogger(__name__)

_BUSY = frozenset({429, 500, 502, 503, 504})
"""Answers that may differ the next time."""


class _TryAgainError(Exception):
    """One attempt failed in a way that may pass."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail


class Fetcher:
    """Fetches the pages of the hosts it is given.

    Args:
        settings: Limits and manners.
        lookup: The DNS; the system's when not given.
    """

    def __init__(self, settings: FetchSettings, lookup: Lookup | None = None) -> None:
        self._settings = settings
        self._policy = AddressPolicy(allow_private=settings.allow_private, routes=settings.routes)
        self._resolver = PinnedResolver(self._policy, lookup)
        self._session: aiohttp.ClientSession | None = None
        self._gates: dict[str, HostGate] = {}
        self._robots: dict[str, asyncio.Task[tuple[RobotsRules, HostGate]]] = {}

    async def fetch(self, requests: Sequence[PageRequest]) -> FetchedBatch:
        """Asks for the pages of a batch, and stops beginning new ones when the time of the batch is over.

        At least one page is begun, so that a host with a long pause gets on as well.
        """
        deadline = time.monotonic() + self._settings.batch_s
        waiting = list(reversed(requests))
        pages: list[FetchedPage] = []

        async def work() -> None:
            while waiting and (not pages or time.monotonic() < deadline):
                pages.append(await self._page(waiting.pop()))

        await asyncio.gather(*(work() for _ in range(min(self._settings.concurrency_per_host, len(requests)))))
        return FetchedBatch(pages=tuple(pages), left=tuple(request.url for request in reversed(waiting)))

    async def close(self) -> None:
        """Closes the connections."""
        for task in self._robots.values():
            task.cancel()
        if self._session is not None:
            await self._session.close()

    async def _page(self, request: PageRequest) -> FetchedPage:
        try:
            url = self._policy.check_url(request.url)
            rules, gate = await self._rules(url)
            if not rules.allows(request.url, self._settings.robots_token):
                reason = "robots" if rules.reachable else "robots_unreachable"
                return FetchedPage(url=request.url, reason=reason, detail=rules.rule, fetched_at=time.time())
            if (asked_s := rules.delay_s(self._settings.robots_token)) > MAX_PAUSE_S:
                return _refused(PageRefusedError(request.url, "crawl_delay", f"{rules.rule} asks for {asked_s:g} s"))
            return await self._with_retries(request, url, gate)
        except PageRefusedError as refusal:
            return _refused(refusal)

    async def _with_retries(self, request: PageRequest, url: URL, gate: HostGate) -> FetchedPage:
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type(_TryAgainError),
            retry_error_callback=_last_failure,
        )
        found: FetchedPage | _TryAgainError = await attempts(self._attempt, request, url, gate)
        if isinstance(found, FetchedPage):
            return found
        return FetchedPage(
            url=request.url, status=found.status, reason=found.reason, detail=found.detail, fetched_at=time.time()
        )

    async def _attempt(self, request: PageRequest, url: URL, gate: HostGate) -> FetchedPage:
        async with gate.turn(request.url):
            try:
                async with asyncio.timeout(self._settings.page_timeout_s):
                    page = await self._get(request, url)
            except TimeoutError as error:
                # A page that drips is not asked for again: it would drip again.
                gate.failed()
                limit = f"not complete after {self._settings.page_timeout_s:g} s"
                raise PageRefusedError(request.url, "too_slow", limit) from error
            except (aiohttp.ClientError, OSError) as error:
                gate.failed()
                self._resolver.unpin(url.raw_host or "")
                raise _TryAgainError(0, "unreachable", f"{type(error).__name__}: {error}") from error
            if page.status in _BUSY:
                self._note_busy(page, gate)
                raise _TryAgainError(page.status, f"http_{page.status}", page.detail)
            gate.succeeded()
            return page

    def _note_busy(self, page: FetchedPage, gate: HostGate) -> None:
        if (pause_s := _retry_after_s(page.detail)) > 0:
            gate.pause(pause_s)
        if page.status == 429:
            gate.succeeded()  # a host that can say so is not down
        else:
            gate.failed()

    async def _get(self, request: PageRequest, url: URL) -> FetchedPage:
        headers = _conditions(request)
        async with self._open().get(url, headers=headers, allow_redirects=False) as response:
            page = FetchedPage(
                url=request.url,
                status=response.status,
                fetched_at=time.time(),
                content_type=response.headers.get("Content-Type", ""),
                etag=response.headers.get("ETag", ""),
                last_modified=response.headers.get("Last-Modified", ""),
                robots_tag=",".join(response.headers.getall("X-Robots-Tag", ())),
            )
            try:
                return await self._judge(page, url, response)
            except PageRefusedError as refusal:
                return replace(page, reason=refusal.reason, detail=refusal.detail)

    async def _judge(self, page: FetchedPage, url: URL, response: aiohttp.ClientResponse) -> FetchedPage:
        match response.status:
            case 304:
                return page
            case status if status in _BUSY:
                return replace(page, reason=f"http_{status}", detail=response.headers.get("Retry-After", ""))
            case status if status in REDIRECTS:
                return self._redirect(page, url, response.headers.get("Location", ""))
            case 200:
                check_type(page.url, page.content_type)
                body, received = await read_body(
                    page.url,
                    response.content.iter_any(),
                    encoding=response.headers.get("Content-Encoding", ""),
                    declared=response.content_length,
                    max_bytes=self._settings.max_bytes,
                )
                digest = hashlib.sha256(body).hexdigest()
                return replace(page, body=body, num_bytes=received, body_sha256=digest)
            case status:
                return replace(page, reason=f"http_{status}", detail=f"answered {status}")

    def _redirect(self, page: FetchedPage, url: URL, location: str) -> FetchedPage:
        """Redirects are not followed here: the target is a page of its own, with robots, limits and checks of its
        own."""
        try:
            target = url.join(URL(location)) if location else None
        except ValueError:
            target = None
        if target is None:
            return replace(page, reason="bad_redirect", detail=f"leads to {location[:200]!r}")
        try:
            self._policy.check_url(str(target))
        except AddressRefusedError as refusal:
            return replace(page, reason=refusal.reason, detail=f"redirect to {str(target)[:200]!r}: {refusal.detail}")
        return replace(page, location=str(target))

    async def _rules(self, url: URL) -> tuple[RobotsRules, HostGate]:
        origin = str(url.origin())
        if origin not in self._robots:
            self._robots[origin] = asyncio.create_task(self._load_rules(url))
        return await asyncio.shield(self._robots[origin])

    async def _load_rules(self, url: URL) -> tuple[RobotsRules, HostGate]:
        rules = await self._fetch_rules(url.origin().join(URL("/robots.txt")))
        host = host_of(str(url))
        if host not in self._gates:
            delay_s = max(self._settings.delay_s, rules.delay_s(self._settings.robots_token))
            self._gates[host] = HostGate(host, delay_s=delay_s, concurrency=self._settings.concurrency_per_host)
        return rules, self._gates[host]

    async def _fetch_rules(self, url: URL) -> RobotsRules:
        target = url
        for _ in range(MAX_ROBOTS_REDIRECTS + 1):
            try:
                self._policy.check_url(str(target))
                async with asyncio.timeout(self._settings.page_timeout_s):
                    async with self._open().get(target, allow_redirects=False) as response:
                        if response.status in REDIRECTS and (location := response.headers.get("Location")):
                            target = target.join(URL(location))
                            continue
                        body = await _read_rules_body(str(target), response)
                        return read_rules(str(url), response.status, body)
            except AddressRefusedError:
                if target == url:
                    raise
                return read_rules(str(url), 0, b"", "it leads to an address that is not allowed")
            except TimeoutError:
                return read_rules(str(url), 0, b"", "no answer in time")
            except PageRefusedError as refusal:
                return read_rules(str(url), 0, b"", refusal.detail)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return read_rules(str(url), 0, b"", f"{type(error).__name__}: {error}")
        # RFC 9309 section 2.3.1.2: after five redirects the file may be taken for one that is not there.
        return read_rules(str(url), 404, b"")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=self._resolver,
                use_dns_cache=False,  # the resolver pins
                socket_factory=self._policy.socket_factory,
                limit=64,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={
                    "User-Agent": self._settings.user_agent,
                    "Accept": "text/html,application/xhtml+xml,text/plain;q=0.8",
                    "Accept-Encoding": ACCEPT_ENCODING,
                },
                auto_decompress=False,  # read_body unpacks under a limit
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                trust_env=False,
            )
        return self._session


async def _read_rules_body(url: str, response: aiohttp.ClientResponse) -> bytes:
    if response.status != 200:
        return b""
    body, _ = await read_body(
        url,
        response.content.iter_any(),
        encoding=response.headers.get("Content-Encoding", ""),
        declared=None,
        max_bytes=4 * MAX_ROBOTS_BYTES,
    )
    return body


def _conditions(request: PageRequest) -> dict[str, str]:
    """Headers of a conditional request (RFC 9110 section 13). A rendered page is never asked for conditionally."""
    known = request.known
    if known is None or known.rendered:
        return {}
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in headers.items() if value}


def _refused(refusal: PageRefusedError) -> FetchedPage:
    return FetchedPage(url=refusal.url, reason=refusal.reason, detail=refusal.detail, fetched_at=time.time())


def _last_failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _retry_after_s(value: str, now: float | None = None) -> float:
    """Reads Retry-After: seconds or an HTTP date (RFC 9110 section 10.2.3); 0 when there is none."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now))
    except (TypeError, ValueError, OverflowError):
        return 0.0
