"""The endpoint: the OpenAI API over HTTP, on top of `Traffic`."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from steps.deploy.errors import AnswerBrokenError
from steps.deploy.metrics import CONTENT_TYPE
from steps.deploy.openai_api import DONE, Answer, ApiError, ChatRequest, CompletionRequest, event, parse, usage
from steps.deploy.splitting import session_key
from steps.deploy.traffic import Alias, Begun, Traffic

logger = logging.getLogger(__name__)

REPLAY_HEADER = "x-everloop-replay"
"""Marks held-out prompts that a rollout sends as its own traffic."""


def create_app(traffic: Traffic) -> FastAPI:
    """Gives the application of one router process."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await traffic.start()
        yield
        await traffic.close()

    app = FastAPI(title="Everloop", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(404, _no_route)
    app.add_exception_handler(405, _no_route)
    app.add_exception_handler(Exception, _unexpected)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(traffic, request, CompletionRequest)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(traffic, request, ChatRequest)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [_model(alias) for alias in traffic.aliases.values() if alias.state.champion is not None]
        return {"object": "list", "data": listed}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return _model(traffic.alias(name))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(traffic.page(), headers={"content-type": CONTENT_TYPE})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        champions = {name: a.state.champion and a.state.champion.version for name, a in traffic.aliases.items()}
        return {"status": "ok", "champions": champions}

    return app


async def _answer(traffic: Traffic, request: Request, kind: type[CompletionRequest] | type[ChatRequest]) -> Response:
    request_id = secrets.token_hex(16)
    headers = {"x-request-id": request_id}
    try:
        asked = parse(kind, await _body(traffic, request))
        alias = traffic.alias(asked.model)
        session = session_key(
            session_id=request.headers.get("x-session-id"),
            api_key=request.headers.get("authorization"),
            first_message=asked.first_message(),
            request_id=request_id,
        )
        answer = Answer(
            request_id,
            alias.name,
            chat=kind is ChatRequest,
            include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
        )
        leaving = AsyncExitStack()
        leaving.enter_context(traffic.admitted(alias))
        async with leaving:
            begun = await traffic.begin(
                alias,
                asked.generation(request_id),
                session,
                whole=not asked.stream,
                replayed=REPLAY_HEADER in request.headers,
            )
            leaving.callback(traffic.end, begun)
            leaving.push_async_callback(begun.rest.aclose)
            headers |= _provenance(begun)
            if asked.stream:
                return EventStream(_events(begun, answer), leaving.pop_all(), headers)
    except ApiError as error:
        return JSONResponse(error.body(), error.status, headers | error.headers())
    made = begun.attempt
    counts = usage(made.num_prompt_tokens, made.num_tokens)
    return JSONResponse(answer.whole(made.text, made.finish_reason or "stop", counts), headers=headers)


class EventStream(StreamingResponse):
    """A stream of events whose answer is ended even if the client left before the first of them."""

    def __init__(self, events: AsyncIterator[bytes], leaving: AsyncExitStack, headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={**headers, "cache-control": "no-store"})
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._leaving:
            await super().__call__(scope, receive, send)


async def _events(begun: Begun, answer: Answer) -> AsyncIterator[bytes]:
    made = begun.attempt
    try:
        for piece in begun.pieces:
            yield answer.chunk(piece.text, piece.finish_reason)
        async for piece in begun.rest:
            if piece.text or piece.finish_reason:
                yield answer.chunk(piece.text, piece.finish_reason)
        yield answer.usage_chunk(usage(made.num_prompt_tokens, made.num_tokens))
        yield DONE
    except AnswerBrokenError as error:
        # The head went out with 200 long ago: say so, and keep back the mark of a whole answer.
        logger.warning("request %s broke: %s", made.request.request_id, error)
        yield event(ApiError(502, "the model failed while it answered", code="answer_broken").body())


def _provenance(begun: Begun) -> dict[str, str]:
    choice = begun.attempt.choice
    headers = {"x-variant": choice.variant, "x-model-version": choice.model.version}
    return headers if choice.rollout is None else {**headers, "x-rollout-id": choice.rollout}


async def _body(traffic: Traffic, request: Request) -> bytes:
    limit = min((alias.serving.max_body_bytes for alias in traffic.aliases.values()), default=2**20)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
    return bytes(body)


def _model(alias: Alias) -> dict[str, Any]:
    created = int(alias.state.champion_since)
    return {"id": alias.name, "object": "model", "created": created, "owned_by": "everloop"}


async def _api_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body(), error.status, error.headers())


async def _no_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return JSONResponse(ApiError(status, f"{request.method} {request.url.path} is not served").body(), status)


async def _unexpected(_: Request, error: Exception) -> Response:
    logger.error("a request failed unexpectedly", exc_info=error)
    return JSONResponse(ApiError(500, "the router failed; its log tells why").body(), 500)
