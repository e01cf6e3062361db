"""A model version behind a Serve handle, as the router sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from steps.deploy.generation import Generation, Piece, Refusal


class HandleEngine:
    """Asks a `TransformersReplica`. Satisfies `Engine`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)

    async def generate(self, request: Generation) -> AsyncGenerator[Piece | Refusal]:
        answer = self._stream.generate.remote(request)
        try:
            async for pieces in answer:
                for piece in pieces:
                    yield piece
        finally:
            answer.cancel()

    async def score(self, prompt: str, answer: str) -> float | None:
        scored: float | None = await self._handle.score.remote(prompt, answer)
        return scored
