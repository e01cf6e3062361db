"""The router without HTTP: follows the release logs, chooses who answers, falls back, records outcomes.

Everything comes in by parameters (storage, engines, outcome writers), so it runs without Ray in tests. Weights are
swapped in memory when the release log says so; nothing is redeployed for a weight.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from steps.common.outcomes import Outcome
from steps.common.releases import Limits, ReleasedModel, ReleaseState, open_release_log
from steps.deploy.answering import Attempt
from steps.deploy.config import ServingConfig
from steps.deploy.errors import AnswerBrokenError
from steps.deploy.generation import Engine, Generation, Piece
from steps.deploy.metrics import RouterMetrics
from steps.deploy.openai_api import ApiError, refused
from steps.deploy.splitting import Choice, choose
from workflows.log import Log, LogError, Store, list_logs

logger = logging.getLogger(__name__)

TAIL_S = 1.0
"""How often the release logs are read: a weight is in force on all routers within about a second."""

RETRY_PAUSE_S = 0.2
"""Pause before the champion is asked again after one of its replicas died."""

SIDE_TIMEOUT_S = 60.0
"""Longest time that a shadow answer or a score may take; neither is waited for by a client."""


class OutcomeSink(Protocol):
    """Where outcomes go; `steps.common.outcomes.OutcomeWriter` is one."""

    dropped: int

    def add(self, outcome: Outcome) -> None: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Alias:
    """A public model name: its release log, and where its outcomes go."""

    name: str
    log: Log[ReleaseState]
    sink: OutcomeSink
    state: ReleaseState = field(default_factory=ReleaseState)
    serving: ServingConfig = field(default_factory=ServingConfig)
    open_answers: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Begun:
    """An answer of which the first part is there.

    Attributes:
        alias: Who was asked.
        attempt: The answer.
        pieces: What is there: the first piece, or all of them.
        rest: What is still to come.
    """

    alias: Alias
    attempt: Attempt
    pieces: list[Piece]
    rest: AsyncGenerator[Piece]


class Traffic:
    """All aliases of one storage.

    Args:
        store: The storage.
        engines: Gives the engine of a model version: called with alias and model.
        sinks: Gives the outcome sink of an alias.
        metrics: What is counted.
        tail_s: How often the release logs are read.
    """

    def __init__(
        self,
        store: Store,
        engines: Callable[[str, ReleasedModel, ServingConfig], Engine],
        sinks: Callable[[str], OutcomeSink],
        metrics: RouterMetrics,
        *,
        tail_s: float = TAIL_S,
    ) -> None:
        self._store, self._engines, self._sinks, self.metrics = store, engines, sinks, metrics
        self.aliases: dict[str, Alias] = {}
        self.in_flight = 0
        self._tail_s = tail_s
        self._read_at = time.monotonic()
        self._refreshing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._shadows: asyncio.Queue[tuple[Alias, Attempt]] = asyncio.Queue()
        self._scores: asyncio.Queue[tuple[Alias, Attempt]] = asyncio.Queue()

    async def start(self) -> None:
        """Reads the release logs, and goes on following them."""
        await self.refresh()
        for work in (self._tail(), self._mirror(), self._judge()):
            self._tasks.append(asyncio.create_task(work))

    async def close(self) -> None:
        """Ends following, and appends what is pending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for alias in self.aliases.values():
            await asyncio.to_thread(alias.sink.close)

    async def refresh(self) -> None:
        """Reads all release logs now, new aliases included."""
        async with self._refreshing:
            for name in await asyncio.to_thread(self._names):
                if name not in self.aliases:
                    self.aliases[name] = Alias(name, open_release_log(self._store, name), self._sinks(name))
            await self._follow()

    def _names(self) -> list[str]:
        return [log.removeprefix("releases/") for log in list_logs(self._store, "releases/")]

    async def _follow(self) -> None:
        for alias in self.aliases.values():
            state = await asyncio.to_thread(alias.log.refresh)
            if state is not alias.state:
                alias.state, alias.serving = state, ServingConfig(**state.serving)
                self.metrics.follow(alias.name, state)
            self.metrics.outcomes_lost.labels(alias.name).set(alias.sink.dropped)
        self._read_at = time.monotonic()

    async def _tail(self) -> None:
        while True:
            await asyncio.sleep(self._tail_s)
            try:
                async with self._refreshing:
                    await self._follow()
            except LogError:
                # The state in memory stays in force: a storage that is away must not stop answers.
                logger.warning("the release logs could not be read, will try again", exc_info=True)

    def page(self) -> bytes:
        """Gives the metrics."""
        self.metrics.in_flight.set(self.in_flight)
        self.metrics.log_age.set(time.monotonic() - self._read_at)
        return self.metrics.page()

    def alias(self, name: str) -> Alias:
        """Gives an alias.

        Raises:
            ApiError: 404.
        """
        alias = self.aliases.get(name)
        if alias is None:
            raise ApiError(404, f"the model {name!r} does not exist", param="model", code="model_not_found")
        return alias

    @contextmanager
    def admitted(self, alias: Alias) -> Iterator[None]:
        """Counts a request in, or refuses it with 429."""
        if self.in_flight >= alias.serving.max_in_flight:
            self.metrics.refused.labels(alias.name, "full").inc()
            raise ApiError(429, "too many requests are being answered, try again", code="overloaded", retry_after_s=1)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def begin(
        self, alias: Alias, request: Generation, session: str, *, whole: bool, replayed: bool = False
    ) -> Begun:
        """Begins an answer: chooses who gives it, and waits for its first piece, or for all of it.

        As long as nothing was sent to the client, a failure costs it nothing: that of the challenger is counted
        against it and the champion answers; the champion itself is asked again while there is time.

        Raises:
            ApiError: 400 if the model refuses the request, 503 if nobody answers.
        """
        choice = choose(alias.state, session)
        if choice is None:
            raise ApiError(503, f"no version of {alias.name!r} is released yet", code="not_ready", retry_after_s=5)
        deadline = time.monotonic() + alias.serving.first_token_s
        fell_back = recorded = False
        while True:
            attempt = Attempt(request, choice, session, replayed=replayed, fell_back=fell_back)
            try:
                return await self._try(alias, attempt, whole=whole)
            except AnswerBrokenError as error:
                logger.warning("request %s: %s", request.request_id, error)
                attempt.failed = True
                attempt.fell_back = fell_back or choice.variant == "canary"
                if not recorded or choice.variant == "canary":
                    self.record(alias, attempt)
                recorded = True
            if choice.variant == "canary":
                fell_back = True
                choice = replace(choice, variant="champion", model=alias.state.champion or choice.model)
            elif time.monotonic() > deadline:
                raise ApiError(503, "the model does not answer", code="unavailable", retry_after_s=5)
            else:
                await asyncio.sleep(RETRY_PAUSE_S)
                # The champion may be another one by now.
                choice = replace(choice, model=alias.state.champion or choice.model)

    async def _try(self, alias: Alias, attempt: Attempt, *, whole: bool) -> Begun:
        rest = self._pieces(alias, attempt)
        try:
            pieces = [piece async for piece in rest] if whole else [await anext(rest)]
        except StopAsyncIteration:
            pieces = []
        except asyncio.CancelledError:
            attempt.aborted = True
            self.record(alias, attempt)
            raise
        if attempt.refusal is not None:
            self.metrics.refused.labels(alias.name, "invalid").inc()
            raise refused(attempt.refusal)
        return Begun(alias, attempt, pieces, rest)

    async def _pieces(self, alias: Alias, attempt: Attempt) -> AsyncGenerator[Piece]:
        serving, version = alias.serving, attempt.choice.model.version
        is_champion = attempt.choice.variant == "champion"
        alias.open_answers[version] = alias.open_answers.get(version, 0) + 1
        try:
            engine = self._engine(alias, attempt.choice.model)
            first_token_s = serving.first_token_s if is_champion else serving.challenger_first_token_s
            async with aclosing(attempt.pieces(engine, first_token_s=first_token_s, stall_s=serving.stall_s)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            alias.open_answers[version] -= 1

    def _engine(self, alias: Alias, model: ReleasedModel) -> Engine:
        try:
            return self._engines(alias.name, model, alias.serving)
        except Exception as error:
            raise AnswerBrokenError(model.version, f"{type(error).__name__}: {error}"[:500]) from error

    def end(self, begun: Begun) -> None:
        """Ends an answer that was begun: counts it, and copies it to the shadow if there is one."""
        alias, attempt = begun.alias, begun.attempt
        attempt.aborted = attempt.finish_reason is None and not attempt.failed
        self.record(alias, attempt)
        rollout = alias.state.rollout
        if rollout is None or rollout.stage != "shadow" or attempt.aborted or attempt.choice.rollout != rollout.id:
            return
        shadow = Choice(variant="shadow", model=rollout.challenger, rollout=rollout.id, step=rollout.step.index)
        if self._shadows.qsize() >= alias.serving.max_shadow_queue:
            self.metrics.shadow_dropped.labels(alias.name).inc()
        else:
            copy = Attempt(attempt.request, shadow, attempt.session, replayed=attempt.replayed)
            self._shadows.put_nowait((alias, copy))

    def record(self, alias: Alias, attempt: Attempt) -> None:
        """Writes an outcome; during a rollout after the champion has scored the answer."""
        wants_score = _limits(alias, attempt).nats_per_byte is not None and attempt.finish_reason is not None
        if wants_score and attempt.text and self._scores.qsize() < alias.serving.max_scores_queue:
            self._scores.put_nowait((alias, attempt))
            return
        if wants_score and attempt.text:
            self.metrics.unscored.labels(alias.name).inc()
        self._write(alias, attempt, None)

    def _write(self, alias: Alias, attempt: Attempt, nats_per_byte: float | None) -> None:
        outcome = attempt.outcome(
            _limits(alias, attempt), keep_texts=alias.serving.keep_texts, nats_per_byte=nats_per_byte
        )
        alias.sink.add(outcome)
        self.metrics.observe(alias.name, outcome)

    async def _mirror(self) -> None:
        while True:
            alias, attempt = await self._shadows.get()
            attempt.started_at = time.monotonic()
            await _side(_drain(self._pieces(alias, attempt)))
            if attempt.refusal is None:
                attempt.failed = attempt.failed or attempt.finish_reason is None
                self.record(alias, attempt)

    async def _judge(self) -> None:
        while True:
            alias, attempt = await self._scores.get()
            score = None
            if alias.state.champion is not None:
                score = await _side(self._score(alias, alias.state.champion, attempt))
            self._write(alias, attempt, score)

    async def _score(self, alias: Alias, champion: ReleasedModel, attempt: Attempt) -> float | None:
        return await self._engine(alias, champion).score(attempt.request.text, attempt.text)


async def _side(work: Coroutine[Any, Any, Any]) -> Any:
    """Does what no client waits for; a failure is logged and gives None."""
    try:
        return await asyncio.wait_for(work, SIDE_TIMEOUT_S)
    except Exception:
        logger.warning("a shadow answer or a score failed", exc_info=True)
        return None


async def _drain(pieces: AsyncGenerator[Piece]) -> None:
    async for _ in pieces:
        pass


def _limits(alias: Alias, attempt: Attempt) -> Limits:
    rollout = alias.state.rollout
    return rollout.limits if rollout is not None and rollout.id == attempt.choice.rollout else Limits()
