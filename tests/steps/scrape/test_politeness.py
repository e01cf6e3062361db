from __future__ import annotations

import asyncio
import itertools

import pytest

from steps.scrape.errors import HostClosedError
from steps.scrape.politeness import DOWN_S, MAX_PAUSE_S, NUM_FAILURES_TO_OPEN, HostGate


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def gate(clock: FakeClock, delay_s: float = 0.0, concurrency: int = 2) -> HostGate:
    return HostGate("example.com:80", delay_s=delay_s, concurrency=concurrency, clock=clock, sleep=clock.sleep)


async def take(gate: HostGate, clock: FakeClock, lasts_s: float = 0.0) -> tuple[float, float]:
    async with gate.turn("http://example.com/"):
        began = clock.now
        clock.now += lasts_s
        await asyncio.sleep(0)
        return began, clock.now


async def test_the_pause_runs_from_the_end_of_one_request_to_the_start_of_the_next() -> None:
    clock = FakeClock()
    turns = gate(clock, delay_s=2.0)
    taken = await asyncio.gather(*(take(turns, clock, lasts_s=0.5) for _ in range(4)))
    assert all(later[0] - earlier[1] >= 2.0 for earlier, later in itertools.pairwise(taken))


async def test_a_fresh_gate_begins_with_a_pause() -> None:
    clock = FakeClock()
    began, _ = await take(gate(clock, delay_s=3.0), clock)
    assert began >= 103.0


async def test_without_a_pause_as_many_requests_run_at_once_as_allowed() -> None:
    turns, most, running = gate(FakeClock(), concurrency=3), 0, 0

    async def work() -> None:
        nonlocal most, running
        async with turns.turn("http://example.com/"):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(work() for _ in range(10)))
    assert most == 3


async def test_nobody_asks_inside_a_retry_after() -> None:
    clock = FakeClock()
    turns = gate(clock)
    turns.pause(20.0)
    began, _ = await take(turns, clock)
    assert began >= 120.0


async def test_a_long_retry_after_closes_the_host() -> None:
    turns = gate(FakeClock())
    turns.pause(MAX_PAUSE_S + 1)
    with pytest.raises(HostClosedError) as refused:
        await take(turns, FakeClock())
    assert refused.value.reason == "host_paused"


async def test_a_host_that_fails_again_and_again_is_left_alone_and_tried_once_later() -> None:
    clock = FakeClock()
    turns = gate(clock)
    for _ in range(NUM_FAILURES_TO_OPEN):
        turns.failed()
    with pytest.raises(HostClosedError) as refused:
        await take(turns, clock)
    assert refused.value.reason == "host_down"
    clock.now += DOWN_S
    async with turns.turn("http://example.com/trial"):
        with pytest.raises(HostClosedError):
            await take(turns, clock)
        turns.succeeded()
    await take(turns, clock)
