"""A watch survives outages and moves, follows a run beyond its job, and gives up only when it should."""

from __future__ import annotations

import asyncio
import logging

import pytest

pytest.importorskip("httpx", reason="runs in Airflow's environment, by tests/services/test_airflow_units.py")

from aiohttp import web
from everloop.endpoint import Endpoint
from everloop.errors import Unauthorized, Unreachable
from everloop.follow import Find, Patience, Watch, stop

from tests.airflow_loop.fake_ray import TOKEN, FakeRay

QUICK = Patience(poll_s=0.01, unreachable_timeout_s=30.0)


def at(url: str, token: str = TOKEN) -> Find:
    async def find() -> Endpoint:
        return Endpoint(url, "everloop_ray", token)

    return find


def watch(find_ray: Find, find_door: Find | None = None, patience: Patience = QUICK) -> Watch:
    return Watch(find_ray, find_door, patience, logging.getLogger("watch"))


async def test_a_job_is_watched_to_its_end() -> None:
    fake = FakeRay()
    fake.put("r-a0", "PENDING")
    states = iter(["RUNNING", "RUNNING", "SUCCEEDED"])

    def go_on(method: str, path: str) -> None:
        if path.endswith("r-a0"):
            fake.put("r-a0", next(states), 0, '{"run_id": "r", "rows": 3}\n')

    fake.before = go_on
    async with fake.served() as url:
        outcome = await watch(at(url)).outcome("r-a0", "r")
    assert (outcome.end, outcome.result) == ("succeeded", {"run_id": "r", "rows": 3})


@pytest.mark.parametrize("kind", ["503", "429", "redirect", "truncated", "html404", "closed"])
async def test_answers_that_are_none_are_borne(kind: str) -> None:
    fake = FakeRay()
    fake.put("r-a0", "SUCCEEDED", 0)
    left = 5

    def fail(_method: str, _path: str) -> web.Response | None:
        nonlocal left
        left -= 1
        if left < 0:
            return None
        match kind:
            case "503" | "429":
                return web.Response(status=int(kind))
            case "redirect":
                return web.Response(status=302, headers={"location": "http://127.0.0.1:9/"})
            case "truncated":
                return web.Response(text='{"status": "FAI')
            case "html404":
                return web.Response(status=404, text="<html>no such page</html>")
        raise web.HTTPInternalServerError(text="broken")

    fake.before = fail
    async with fake.served() as url:
        assert (await watch(at(url)).outcome("r-a0", "r")).end == "succeeded"
    assert left < 0


async def test_a_head_that_moves_is_found_again(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeRay()
    fake.put("r-a0", "RUNNING")
    seen = asyncio.Event()

    def note(_method: str, _path: str) -> None:
        seen.set()

    fake.before = note
    async with fake.served() as before:
        where = before

        async def find() -> Endpoint:
            return Endpoint(where, "everloop_ray", TOKEN)

        watching = asyncio.create_task(watch(find).outcome("r-a0", "r"))
        await asyncio.wait_for(seen.wait(), 60)
    fake.put("r-a0", "SUCCEEDED", 0)
    async with fake.served() as where:
        assert (await asyncio.wait_for(watching, 60)).end == "succeeded"


async def test_a_cluster_that_does_not_know_the_job_has_lost_it() -> None:
    fake = FakeRay()
    async with fake.served() as url:
        assert (await watch(at(url)).outcome("r-a0", "r")).end == "lost"


async def test_silence_ends_the_watch_after_its_limit() -> None:
    patience = Patience(poll_s=0.01, unreachable_timeout_s=0.2)
    outcome = await watch(at("http://127.0.0.1:9"), patience=patience).outcome("r-a0", "r")
    assert outcome.end == "unreachable"
    assert "Ray gave no usable answer" in outcome.reason


@pytest.mark.parametrize("token", ["", "wrong-token"])
async def test_a_wrong_token_ends_the_watch_at_once_and_is_not_told(
    token: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeRay()
    async with fake.served() as url:
        outcome = await watch(at(url, token)).outcome("r-a0", "r")
    assert outcome.end == "refused"
    assert len(fake.asked) == 1
    assert "wrong-token" not in outcome.reason + caplog.text


async def test_a_run_that_waits_is_followed_until_it_ends() -> None:
    fake = FakeRay()
    fake.put("r-a0", "FAILED", 3)
    fake.runs["r"] = {"run_id": "r", "status": "parked"}
    statuses = iter(["parked", "running", "succeeded"])

    def go_on(_method: str, path: str) -> None:
        if path == "/v1/runs/r":
            fake.runs["r"] = {"run_id": "r", "status": next(statuses)}

    fake.before = go_on
    async with fake.served() as url:
        outcome = await watch(at(url), at(url)).outcome("r-a0", "r")
    assert (outcome.end, outcome.result) == ("succeeded", {"run_id": "r", "status": "succeeded"})


async def test_a_merged_run_is_followed_where_it_went() -> None:
    fake = FakeRay()
    fake.put("r-a0", "FAILED", 2, "error: not started: run x has just begun; go on with it: --resume x, or drop it")
    fake.runs["x"] = {"run_id": "x", "status": "cancelled", "reason": "by eve"}
    async with fake.served() as url:
        outcome = await watch(at(url), at(url)).outcome("r-a0", "r")
    assert (outcome.end, outcome.run_id) == ("stopped", "x")


async def test_a_followed_run_that_nobody_drives_any_more_is_to_be_driven_again() -> None:
    fake = FakeRay()
    fake.put("r-a0", "FAILED", 1, "error: run 'r' is held by process 7 on vm, heard of 10 s ago\n")
    fake.runs["r"] = {"run_id": "r", "status": "running", "held": True}
    looks = 0

    def die(_method: str, path: str) -> None:
        nonlocal looks
        if path == "/v1/runs/r":
            looks += 1
            fake.runs["r"] = {"run_id": "r", "status": "running", "held": looks < 3}

    fake.before = die
    patience = Patience(poll_s=0.01, abandoned_timeout_s=0.1)
    async with fake.served() as url:
        outcome = await watch(at(url), at(url), patience).outcome("r-a0", "r")
    assert (outcome.end, outcome.run_id) == ("killed", "r")
    assert looks > 3, "it was given up at the first look"


async def test_a_merged_run_that_nobody_drives_is_left_to_its_own() -> None:
    fake = FakeRay()
    fake.put("r-a0", "SUCCEEDED", 0, '{"outcome": "merged", "run_id": "x"}\n')
    statuses = iter(["running"] * 20 + ["succeeded"])

    def go_on(_method: str, path: str) -> None:
        if path == "/v1/runs/x":
            fake.runs["x"] = {"run_id": "x", "status": next(statuses), "held": False}

    fake.before = go_on
    patience = Patience(poll_s=0.01, abandoned_timeout_s=0.05)
    async with fake.served() as url:
        outcome = await watch(at(url), at(url), patience).outcome("r-a0", "r")
    assert (outcome.end, outcome.run_id) == ("succeeded", "x")


async def test_without_a_door_a_waiting_run_is_told_and_not_forgotten() -> None:
    fake = FakeRay()
    fake.put("r-a0", "FAILED", 3)
    async with fake.served() as url:
        outcome = await watch(at(url)).outcome("r-a0", "r")
    assert outcome.end == "refused"
    assert "waits for a person" in outcome.reason


async def test_stop_waits_for_the_end() -> None:
    fake = FakeRay()
    fake.put("r-a0", "RUNNING")
    async with fake.served() as url:
        assert await stop(at(url), "r-a0", timeout_s=20) == "STOPPED"
        assert await stop(at(url), "unknown", timeout_s=20) == "unknown"
        with pytest.raises(Unauthorized):
            await stop(at(url, "wrong"), "r-a0", timeout_s=20)
    with pytest.raises(Unreachable):
        await stop(at("http://127.0.0.1:9"), "r-a0", timeout_s=20)


def test_pauses_differ_and_stay_near_what_was_asked() -> None:
    pauses = [Patience(poll_s=10).pause_s() for _ in range(200)]
    assert len(set(pauses)) > 100
    assert all(7.5 <= pause <= 12.5 for pause in pauses)
