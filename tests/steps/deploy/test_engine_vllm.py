from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from steps.deploy import engine_vllm
from steps.deploy.engine_vllm import VllmEngine, events_of, require_vllm
from steps.deploy.errors import MissingExtraError
from steps.deploy.generation import Generation, Piece, Refusal


@dataclass
class Failure:
    code: int
    message: str


@dataclass
class ErrorAnswer:
    error: Failure


class FakeHandle:
    """Streams what `ray.serve.llm` streams."""

    def __init__(self, *chunks: Any) -> None:
        self._chunks, self.cancelled = chunks, False
        self.completions = self.chat = self

    def options(self, **_: Any) -> FakeHandle:
        return self

    def remote(self, *_: Any) -> FakeHandle:
        return self

    def cancel(self) -> None:
        self.cancelled = True

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._chunks:
            yield chunk


def event(choice: Any, num_tokens: int) -> str:
    body = {
        "choices": [choice] if choice else [],
        "usage": {"prompt_tokens": 2, "completion_tokens": num_tokens},
    }
    return f"data: {json.dumps(body)}\n\n"


async def answer(handle: FakeHandle, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(engine_vllm, "vllm_request", lambda request, model_id: (request, model_id))
    return [piece async for piece in VllmEngine(handle, "app").generate(Generation(request_id="r", prompt="p"))]


async def test_pieces_carry_texts_counts_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle(
        event({"text": "a", "finish_reason": None}, num_tokens=1),
        [event({"text": "b", "finish_reason": "length"}, num_tokens=2), event(None, num_tokens=2) + "data: [DONE]\n\n"],
    )
    pieces = await answer(handle, monkeypatch)
    assert "".join(piece.text for piece in pieces) == "ab"
    assert sum(piece.num_tokens for piece in pieces) == 2
    assert [piece.finish_reason for piece in pieces] == [None, "length"]
    assert pieces[-1].num_prompt_tokens == 2
    assert handle.cancelled


async def test_what_vllm_refuses_is_a_refusal_and_what_breaks_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    (refusal,) = await answer(FakeHandle(ErrorAnswer(Failure(400, "maximum context length is 8"))), monkeypatch)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "context_length_exceeded"
    with pytest.raises(RuntimeError, match="engine died"):
        await answer(FakeHandle(ErrorAnswer(Failure(500, "engine died"))), monkeypatch)


def test_chat_events_and_errors_in_events_are_read() -> None:
    (read,) = events_of('data: {"choices":[{"delta":{"content":"x"}}]}\n\n')
    assert read["choices"][0]["delta"]["content"] == "x"  # type: ignore[index]
    (refusal,) = events_of('data: {"error":{"code":400,"message":"no"}}\n\n')
    assert isinstance(refusal, Refusal)


async def test_scores_are_left_out() -> None:
    assert await VllmEngine(FakeHandle(), "app").score("a", "b") is None


def test_a_missing_vllm_names_the_extra() -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    with pytest.raises(MissingExtraError, match="uv sync --extra vllm"):
        require_vllm()


def test_a_piece_is_what_the_router_expects() -> None:
    assert Piece(text="", num_tokens=0, num_prompt_tokens=0).finish_reason is None
