"""The endpoint over ASGI, with engines that come in as a parameter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from steps.common import releases
from steps.common.outcomes import Outcome
from steps.common.releases import Limits, ReleasedModel, ReleaseState, open_release_log
from steps.deploy.app import create_app
from steps.deploy.config import ServingConfig
from steps.deploy.generation import Generation, Piece, Refusal
from steps.deploy.metrics import RouterMetrics
from steps.deploy.traffic import Traffic
from workflows.log import Log, StoreUnavailable, TreeRef, open_store

httpx2 = pytest.importorskip("httpx2")


@dataclass
class FakeEngine:
    """Says its words one by one; fails before word `fails_at`."""

    words: list[str]
    fails_at: int | None = None
    failures: int = 10**9
    refusal: Refusal | None = None
    gate: asyncio.Event | None = None
    asked: list[Generation] = field(default_factory=list)
    num_open: int = 0
    scored: list[str] = field(default_factory=list)

    async def generate(self, request: Generation) -> AsyncGenerator[Piece | Refusal]:
        self.asked.append(request)
        self.num_open += 1
        try:
            if self.refusal is not None:
                yield self.refusal
                return
            for number, word in enumerate(self.words):
                if number == self.fails_at and self.failures > 0:
                    self.failures -= 1
                    raise RuntimeError("the replica died")
                if number and self.gate is not None:
                    await self.gate.wait()
                last = number == len(self.words) - 1
                yield Piece(text=word, num_tokens=1, num_prompt_tokens=3, finish_reason="stop" if last else None)
        finally:
            self.num_open -= 1

    async def score(self, prompt: str, answer: str) -> float | None:
        self.scored.append(answer)
        return 9.0 if "gibberish" in answer else 1.0


@dataclass
class Sink:
    outcomes: list[Outcome] = field(default_factory=list)
    dropped: int = 0

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None:
        pass


def model(version: str) -> ReleasedModel:
    return ReleasedModel(version, TreeRef(version.rjust(64, "0"), 1, 1), {}, "pages@v1", "run-1")


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def opening(stage: releases.Stage, weight: float, version: str = "2", **limits: Any) -> releases.Decide:
    return releases.open_rollout(
        rollout_id="r" if version == "2" else "first",
        challenger=model(version),
        run_id="run-1",
        epoch=1,
        at=0.0,
        deadline_at=1e12,
        limits=Limits(**limits),
        stage=stage,
        weight=weight,
        serving=SERVING.model_dump(mode="json"),
    )


@dataclass
class Rig:
    """A router without Ray: champion 1, challenger 2."""

    log: Log[ReleaseState]
    engines: dict[str, FakeEngine]
    sink: Sink
    traffic: Traffic
    client: Any

    async def open(self, stage: releases.Stage, weight: float, **limits: Any) -> None:
        self.log.append(opening(stage, weight, **limits))
        await self.traffic.refresh()

    async def ask(self, prompt: Any = "hello", headers: dict[str, str] | None = None, **body: Any) -> Any:
        return await self.client.post(
            "/v1/completions", json={"model": "demo", "prompt": prompt, **body}, headers=headers
        )

    async def outcomes(self, number: int) -> list[Outcome]:
        await eventually(lambda: len(self.sink.outcomes) >= number)
        return self.sink.outcomes


SERVING = ServingConfig(
    max_in_flight=3,
    max_body_bytes=2048,
    first_token_s=0.5,
    challenger_first_token_s=0.2,
    stall_s=0.2,
    max_shadow_queue=2,
)


@asynccontextmanager
async def rig_on(folder: Path, *, released: bool = True) -> AsyncIterator[Rig]:
    store = open_store(str(folder))
    log = open_release_log(store, "demo")
    log.append(opening("smoke", 0.0, version="1"))
    if released:
        log.append(releases.promote("first", "1", epoch=1, at=1.0, reasons=()))
    engines = {"1": FakeEngine(["one", " two", " three"]), "2": FakeEngine(["uno", " dos"])}
    sink = Sink()
    traffic = Traffic(
        store, lambda _alias, asked, _serving: engines[asked.version], lambda _alias: sink, RouterMetrics(), tail_s=0.05
    )
    await traffic.start()
    transport = httpx2.ASGITransport(app=create_app(traffic))
    async with httpx2.AsyncClient(transport=transport, base_url="http://router") as client:
        yield Rig(log, engines, sink, traffic, client)
    await traffic.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_on(tmp_path) as made:
        yield made


def events(body: str) -> list[Any]:
    return [json.loads(e) if e != "[DONE]" else e for e in (p.removeprefix("data: ") for p in body.split("\n\n") if p)]


async def test_a_completion_has_the_form_of_openai(rig: Rig) -> None:
    answer = await rig.ask(max_tokens=5, temperature=0.5, top_p=0.9, stop=["x"], seed=3, user="ann")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["object"], body["model"]) == ("text_completion", "demo")
    assert body["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "text": "one two three"}]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert answer.headers["x-variant"] == "champion"
    assert body["id"] == f"cmpl-{answer.headers['x-request-id']}"
    asked = rig.engines["1"].asked[0]
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.stop, asked.seed) == (5, 0.5, 0.9, ("x",), 3)


async def test_a_chat_has_the_form_of_openai(rig: Rig) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    body = {"model": "demo", "messages": [{"role": "system", "content": "be"}, {"role": "user", "content": parts}]}
    answer = (await rig.client.post("/v1/chat/completions", json=body)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "one two three", "refusal": None}
    assert rig.engines["1"].asked[0].messages[1] == {"role": "user", "content": "hello"}


async def test_a_stream_names_the_alias_in_every_chunk_and_ends_with_usage(rig: Rig) -> None:
    answer = await rig.ask(stream=True, stream_options={"include_usage": True})
    got = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert got[-1] == "[DONE]"
    assert {chunk["model"] for chunk in got[:-1]} == {"demo"}
    assert "".join(choice["text"] for chunk in got[:-1] for choice in chunk["choices"]) == "one two three"
    assert got[-2]["usage"]["total_tokens"] == 6
    assert [chunk["usage"] for chunk in got[:-2]] == [None] * 3
    assert "usage" not in events((await rig.ask(stream=True)).text)[0]


async def test_a_streamed_chat_names_the_role_once(rig: Rig) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    got = events((await rig.client.post("/v1/chat/completions", json=body)).text)[:-1]
    assert [chunk["choices"][0]["delta"].get("role") for chunk in got] == ["assistant", None, None]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a"}, "model"),
        ({"model": "demo"}, "prompt"),
        ({"model": "demo", "prompt": 3}, "prompt"),
        ({"model": "demo", "prompt": ["a", "b"]}, "prompt"),
        ({"model": "demo", "prompt": "a", "temperature": 3}, "temperature"),
        ({"model": "demo", "prompt": "a", "top_p": 0}, "top_p"),
        ({"model": "demo", "prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"model": "demo", "prompt": "a", "n": 2}, "n"),
        ({"model": "demo", "prompt": "a", "tools": []}, "tools"),
        ({"model": "demo", "prompt": "a", "stop": ["1", "2", "3", "4", "5"]}, "stop"),
        ({"model": "demo", "prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
async def test_bad_input_is_refused_with_the_field(rig: Rig, body: dict[str, Any], param: str) -> None:
    answer = await rig.client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param in error["message"]
    assert not rig.engines["1"].asked


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b"[" * 1500])
async def test_what_is_not_json_is_refused(rig: Rig, body: bytes) -> None:
    answer = await rig.client.post("/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_an_unknown_model_an_unknown_path_and_a_huge_body_have_their_status(rig: Rig) -> None:
    unknown = await rig.client.post("/v1/completions", json={"model": "nobody", "prompt": "a"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    nowhere = await rig.client.get("/v2/nothing")
    assert (nowhere.status_code, nowhere.json()["error"]["type"]) == (404, "not_found_error")
    assert (await rig.client.get("/v1/completions")).status_code == 405
    huge = await rig.ask("x" * 5000)
    assert (huge.status_code, huge.json()["error"]["code"]) == (413, "body_too_large")


async def test_models_are_listed(rig: Rig) -> None:
    listed = (await rig.client.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["demo"]
    assert (await rig.client.get("/v1/models/demo")).json()["id"] == "demo"
    assert (await rig.client.get("/v1/models/nobody")).status_code == 404


async def test_before_the_first_release_clients_are_told_to_come_back(tmp_path: Path) -> None:
    async with rig_on(tmp_path, released=False) as rig:
        answer = await rig.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0


async def test_what_the_model_refuses_is_the_clients_error_and_no_outcome(rig: Rig) -> None:
    rig.engines["1"].refusal = Refusal(field="prompt", message="too long", code="context_length_exceeded")
    for stream in (False, True):
        answer = await rig.ask(stream=stream)
        assert answer.status_code == 400
        assert answer.json()["error"] == {
            "message": "too long",
            "type": "invalid_request_error",
            "param": "prompt",
            "code": "context_length_exceeded",
        }
    assert not rig.sink.outcomes
    assert rig.traffic.in_flight == 0


async def test_when_full_it_says_so_and_when_to_come_back(rig: Rig) -> None:
    gate = rig.engines["1"].gate = asyncio.Event()
    waiting = [asyncio.create_task(rig.ask()) for _ in range(3)]
    await eventually(lambda: rig.engines["1"].num_open == 3)
    answer = await rig.ask()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    gate.set()
    assert [each.status_code for each in await asyncio.gather(*waiting)] == [200] * 3
    assert (await rig.ask()).status_code == 200


async def test_sessions_are_split_by_the_weight_and_stay(rig: Rig) -> None:
    await rig.open("canary", 0.3)
    first = {n: (await rig.ask(headers={"x-session-id": str(n)})).headers for n in range(200)}
    share = sum(headers["x-variant"] == "canary" for headers in first.values()) / 200
    assert 0.15 < share < 0.45
    assert {headers["x-rollout-id"] for headers in first.values()} == {"r"}
    rig.log.append(releases.set_weight("r", epoch=1, step=1, stage="canary", weight=0.6, at=0.0))
    await rig.traffic.refresh()
    for number, headers in first.items():
        again = (await rig.ask(headers={"x-session-id": str(number)})).headers
        assert not (headers["x-variant"] == "canary" and again["x-variant"] == "champion")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails_at", [0, 1])
async def test_a_challenger_that_fails_before_a_byte_was_sent_costs_the_client_nothing(
    rig: Rig, stream: bool, fails_at: int
) -> None:
    rig.engines["2"].fails_at = fails_at
    await rig.open("canary", 1.0)
    answer = await rig.ask(stream=stream)
    assert answer.status_code == 200
    if stream and fails_at == 1:
        # A byte was sent: all that is left is to say that the answer is not whole.
        assert "answer_broken" in answer.text
        assert "[DONE]" not in answer.text
        assert [(o.variant, o.bad) for o in await rig.outcomes(1)] == [("canary", ("failed",))]
        return
    assert "three" in answer.text
    assert answer.headers["x-variant"] == "champion"
    found = await rig.outcomes(2)
    assert [(o.variant, o.version, o.bad, o.fell_back) for o in found] == [
        ("canary", "2", ("failed",), True),
        ("champion", "1", (), True),
    ]
    assert len({o.request_id for o in found}) == 1


async def test_a_challenger_that_hangs_is_given_up_after_its_time(rig: Rig) -> None:
    rig.engines["2"].words = []

    async def hang(_: Generation) -> AsyncGenerator[Piece | Refusal]:
        await asyncio.Event().wait()
        yield Piece(text="", num_tokens=0, num_prompt_tokens=0)

    rig.engines["2"].generate = hang  # type: ignore[method-assign]
    await rig.open("canary", 1.0)
    answer = await rig.ask()
    assert (answer.status_code, answer.headers["x-variant"]) == (200, "champion")
    assert (await rig.outcomes(2))[0].bad == ("failed",)


async def test_a_champion_that_fails_once_is_asked_again(rig: Rig) -> None:
    rig.engines["1"].fails_at, rig.engines["1"].failures = 0, 1
    answer = await rig.ask()
    assert answer.status_code == 200
    assert [o.bad for o in await rig.outcomes(2)] == [("failed",), ()]


async def test_a_champion_that_never_answers_gives_503(rig: Rig) -> None:
    rig.engines["1"].fails_at = 0
    answer = await rig.ask()
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    assert [o.bad for o in await rig.outcomes(1)] == [("failed",)]
    assert rig.traffic.in_flight == 0


async def test_the_shadow_answers_copies_that_nobody_sees(rig: Rig) -> None:
    await rig.open("shadow", 0.0)
    answer = await rig.ask()
    assert (answer.headers["x-variant"], answer.json()["choices"][0]["text"]) == ("champion", "one two three")
    found = await rig.outcomes(2)
    assert [(o.variant, o.version, o.rollout) for o in found] == [("champion", "1", "r"), ("shadow", "2", "r")]
    assert len({o.request_id for o in found}) == 1


async def test_a_full_shadow_queue_drops_and_counts(rig: Rig) -> None:
    rig.engines["2"].gate = asyncio.Event()
    await rig.open("shadow", 0.0)
    for _ in range(6):
        assert (await rig.ask()).status_code == 200
    page = (await rig.client.get("/metrics")).text
    dropped = next(line for line in page.splitlines() if line.startswith("everloop_shadow_dropped_total{"))
    assert float(dropped.split()[-1]) >= 3


async def test_during_a_rollout_the_champion_scores_answers(rig: Rig) -> None:
    rig.engines["2"].words = ["gibberish"]
    await rig.open("canary", 1.0, nats_per_byte=3.0)
    await rig.ask()
    (found,) = await rig.outcomes(1)
    assert (found.nats_per_byte, found.bad) == (9.0, ("implausible",))
    assert rig.engines["1"].scored == ["gibberish"]


async def test_a_client_that_leaves_frees_its_place_and_the_model(rig: Rig) -> None:
    rig.engines["1"].gate = asyncio.Event()
    asked = asyncio.create_task(rig.ask())
    await eventually(lambda: rig.engines["1"].num_open)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await eventually(lambda: not rig.traffic.in_flight and not rig.engines["1"].num_open)
    assert [o.finish_reason for o in await rig.outcomes(1)] == ["abort"]


async def test_open_answers_are_counted_by_version(rig: Rig) -> None:
    gate = rig.engines["1"].gate = asyncio.Event()
    asked = asyncio.create_task(rig.ask(stream=True))
    await eventually(lambda: rig.engines["1"].num_open)
    assert rig.traffic.aliases["demo"].open_answers == {"1": 1}
    gate.set()
    await asked
    assert rig.traffic.aliases["demo"].open_answers == {"1": 0}


async def test_metrics_tell_variant_version_and_rollout(rig: Rig) -> None:
    await rig.open("canary", 1.0)
    await rig.ask()
    await rig.outcomes(1)
    page = (await rig.client.get("/metrics")).text
    assert 'everloop_requests_total{alias="demo",outcome="ok",variant="canary",version="2"} 1.0' in page
    assert 'everloop_canary_weight{alias="demo"} 1.0' in page
    assert 'everloop_rollout_state{alias="demo",state="canary"} 1.0' in page
    assert 'everloop_ttft_seconds_count{alias="demo",variant="canary",version="2"} 1.0' in page
    rig.log.append(releases.abort("r", by="a test", at=0.0))
    await rig.traffic.refresh()
    page = (await rig.client.get("/metrics")).text
    assert 'version="2"' not in page


async def test_a_weight_is_in_force_without_being_told(rig: Rig) -> None:
    rig.log.append(opening("canary", 1.0))
    async with asyncio.timeout(60):
        while (await rig.ask()).headers["x-variant"] != "canary":  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)


async def test_the_state_in_memory_stays_in_force_when_the_storage_is_away(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_reads = 0

    def away() -> Any:
        nonlocal num_reads
        num_reads += 1
        raise StoreUnavailable("file:///gone", "releases/demo", "away")

    monkeypatch.setattr(rig.traffic.aliases["demo"].log, "refresh", away)
    await eventually(lambda: num_reads >= 3)
    assert (await rig.ask()).status_code == 200
