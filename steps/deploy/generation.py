"""What passes between the router and any engine: a request, pieces of the answer, or a refusal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A request for text.

    Attributes:
        request_id: Names the request.
        prompt: Text to continue; None for a chat.
        messages: Chat messages with `role` and `content`; empty for a completion.
        max_tokens: Most tokens to generate; None: as many as the context has room for.
        temperature: 0 picks the likeliest token.
        top_p: Nucleus sampling: the smallest set of tokens with this probability.
        stop: Texts that end the answer; they are not part of it.
        seed: Makes sampling repeatable.
    """

    request_id: str
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def text(self) -> str:
        """The prompt as one text, for digests and scores."""
        return self.prompt if self.prompt is not None else plain_chat(self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of an answer; the last one has a finish reason.

    Attributes:
        text: What is new and will not change: no half characters, no beginning of a stop text.
        num_tokens: Tokens generated since the last piece.
        num_prompt_tokens: Tokens of the prompt.
        finish_reason: Why the answer ended, or None.
    """

    text: str
    num_tokens: int
    num_prompt_tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer to a request that this model cannot serve, for example a prompt longer than its context. Not a failure.

    Attributes:
        field: Field of the request at fault.
        message: What is wrong, with the rule.
        code: Machine-readable, as OpenAI names it.
    """

    field: str
    message: str
    code: str = "invalid_value"


class Engine(Protocol):
    """A model version that answers. Every error that it raises is its own failure, never the client's."""

    def generate(self, request: Generation) -> AsyncGenerator[Piece | Refusal]:
        """Streams the answer; leaving the iteration cancels it."""

    async def score(self, prompt: str, answer: str) -> float | None:
        """Gives the nats per byte of an answer after a prompt, or None where the engine cannot tell."""


def plain_chat(messages: tuple[Mapping[str, str], ...]) -> str:
    """Renders a chat for models without a chat template of their own."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
