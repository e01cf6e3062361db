"""Turn-taking at one host: how often, how many at once, and when not at all.

Takes the pauses that the host asks for (Crawl-delay, Request-rate, Retry-After) and our own floor; gives turns. All
requests to a host go through one `HostGate` in one actor, so the limit holds over the whole crawl.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from steps.scrape.errors import HostClosedError

MAX_PAUSE_S = 60.0
"""A host that asks for a longer pause is left alone for the rest of the crawl; a crawl must end."""

NUM_FAILURES_TO_OPEN = 5
"""Failures in a row after which a host counts as down."""

DOWN_S = 30.0
"""Time until a host that is down is asked again, by one request."""


class HostGate:
    """One host's turns.

    With a pause, turns are serial and the pause runs from the end of one request to the start of the next: the host
    sees gaps that are never shorter, whatever the network does. A fresh gate begins with a pause, because the actor
    before it may have died a moment ago.

    Args:
        host: Name for messages.
        delay_s: Pause between two requests; 0 for none.
        concurrency: Requests at once when there is no pause.
        clock: Monotonic seconds.
        sleep: Waits some seconds.
    """

    def __init__(
        self,
        host: str,
        *,
        delay_s: float,
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._host = host
        self._delay_s = delay_s
        self._clock = clock
        self._sleep = sleep
        self._slots = asyncio.Semaphore(1 if delay_s > 0 else concurrency)
        self._not_before = clock() + delay_s
        self._paused_until = 0.0
        self._failures = 0

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """Holds one turn.

        Raises:
            HostClosedError: The host is down, or wants to be left alone for longer than `MAX_PAUSE_S`.
        """
        self._refuse_if_closed(url)
        async with self._slots:
            while (wait_s := max(self._not_before, self._paused_until) - self._clock()) > 0:
                self._refuse_if_closed(url)
                await self._sleep(wait_s)
            self._refuse_if_closed(url)
            if self._failures >= NUM_FAILURES_TO_OPEN:
                # Half open: this one request is the trial, the others go on being refused.
                self._paused_until = self._clock() + DOWN_S
            try:
                yield
            finally:
                self._not_before = self._clock() + self._delay_s

    def _refuse_if_closed(self, url: str) -> None:
        left_s = self._paused_until - self._clock()
        if left_s <= 0:
            return
        if self._failures >= NUM_FAILURES_TO_OPEN:
            raise HostClosedError(url, "host_down", f"{self._host} failed {self._failures} times in a row")
        if left_s > MAX_PAUSE_S:
            raise HostClosedError(url, "host_paused", f"{self._host} wants no request for {left_s:.0f} s")

    def pause(self, seconds: float) -> None:
        """Keeps everyone away from the host (Retry-After, RFC 9110 section 10.2.3)."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def succeeded(self) -> None:
        """The host answered in earnest."""
        if self._failures >= NUM_FAILURES_TO_OPEN:
            self._paused_until = 0.0
        self._failures = 0

    def failed(self) -> None:
        """The host did not answer, or with a 5xx."""
        self._failures += 1
        if self._failures >= NUM_FAILURES_TO_OPEN:
            self._paused_until = max(self._paused_until, self._clock() + DOWN_S)
