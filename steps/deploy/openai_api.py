"""The OpenAI API as far as it is served: requests checked, answers and errors in its form. No I/O.

`n`, `best_of`, `logprobs`, `tools` and the like are refused by name rather than ignored: an answer that silently lacks
what was asked for is worse than an error. Fields that only label a request (`user`, `metadata`, ...) are accepted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steps.deploy.generation import FinishReason, Generation, Refusal

DEFAULT_COMPLETION_TOKENS = 16
"""`max_tokens` of a completion that names none, as OpenAI documents it."""

DEFAULT_CHAT_TOKENS = 256
"""Most tokens of a chat answer that names none; a smaller context makes it smaller."""

IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""Fields that label a request and change no answer."""


class ApiError(Exception):
    """An error that the client is told about.

    Attributes:
        status: HTTP status.
        param: Field of the request at fault, or None.
        code: Machine-readable reason, or None.
        retry_after_s: When to try again, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        kind = {429: "rate_limit_error", 404: "not_found_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


Probability = Annotated[float, Field(gt=0, le=1)]
Stop = str | Annotated[list[str], Field(max_length=4)]


class _Asked(BaseModel):
    """What both kinds of requests share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    stop: Stop | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None

    @field_validator("presence_penalty", "frequency_penalty", mode="before")
    @classmethod
    def _whole_zero(cls, value: Any) -> Any:
        return 0 if value == 0 else value

    @model_validator(mode="after")
    def _check(self) -> _Asked:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    def _generation(self, request_id: str, **what: Any) -> Generation:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Generation(
            request_id=request_id,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            stop=stop,
            seed=self.seed,
            **what,
        )


class CompletionRequest(_Asked):
    """Body of POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None

    def generation(self, request_id: str) -> Generation:
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        max_tokens = DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        return self._generation(request_id, prompt=prompt, max_tokens=max_tokens)

    def first_message(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a chat; only text is understood."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Asked):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None

    def generation(self, request_id: str) -> Generation:
        messages = tuple({"role": message.role, "content": message.text} for message in self.messages)
        wanted = self.max_completion_tokens or self.max_tokens
        return self._generation(request_id, messages=messages, max_tokens=wanted)

    def first_message(self) -> str:
        return next((message.text for message in self.messages if message.role == "user"), self.messages[0].text)


def parse(kind: type[CompletionRequest] | type[ChatRequest], body: bytes) -> CompletionRequest | ChatRequest:
    """Reads a request.

    Raises:
        ApiError: 400, naming the field and the rule.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    try:
        return kind.model_validate({name: value for name, value in data.items() if name not in IGNORED})
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    path = [
        str(part) for part in first["loc"] if not str(part).startswith(("function-", "constrained-", "list[", "str"))
    ]
    field = ".".join(path) or "stream_options"
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unsupported_parameter"}.get(first["type"])
    rule = "is not supported" if first["type"] == "extra_forbidden" else first["msg"]
    return ApiError(400, f"{field}: {rule}", param=field, code=code or "invalid_value")


def refused(refusal: Refusal) -> ApiError:
    return ApiError(400, refusal.message, param=refusal.field, code=refusal.code)


def usage(num_prompt_tokens: int, num_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
    }


class Answer:
    """Builds the bodies of one answer; `model` is the alias in each of them.

    Args:
        request_id: Names the answer.
        alias: The public model name.
        chat: Whether it answers a chat.
        include_usage: Whether a stream ends with the usage.
    """

    def __init__(self, request_id: str, alias: str, *, chat: bool, include_usage: bool = False) -> None:
        self._chat, self._include_usage = chat, include_usage
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
            "created": int(time.time()),
            "model": alias,
        }
        self._first = True

    def whole(self, text: str, reason: FinishReason, counts: Mapping[str, int]) -> dict[str, Any]:
        """Gives the body of an answer that is not streamed."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": dict(counts)}

    def chunk(self, text: str, reason: FinishReason | None) -> bytes:
        """Gives the event of one piece of a stream."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reason}
        if self._chat:
            role = {"role": "assistant"} if self._first else {}
            choice["delta"] = {**role, "content": text} if text or self._first else role
            self._first = False
        else:
            choice["text"] = text
        return self._event([choice], usage_=None)

    def usage_chunk(self, counts: Mapping[str, int]) -> bytes:
        """Gives the last event before the end, if the client asked for the usage."""
        return self._event([], usage_=dict(counts)) if self._include_usage else b""

    def _event(self, choices: list[dict[str, Any]], *, usage_: dict[str, int] | None) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        body: dict[str, Any] = {**self._head, "object": kind, "choices": choices}
        if self._include_usage:
            body["usage"] = usage_
        return event(body)


def event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


DONE = b"data: [DONE]\n\n"
