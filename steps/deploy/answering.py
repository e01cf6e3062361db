"""One answer from one model version, timed, with a deadline for each piece."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from steps.common.outcomes import MAX_TEXT_CHARS, Outcome, prompt_digest
from steps.common.releases import Limits
from steps.deploy.errors import AnswerBrokenError
from steps.deploy.generation import Engine, FinishReason, Generation, Piece, Refusal
from steps.deploy.quality import defects
from steps.deploy.splitting import Choice


@dataclass(slots=True)
class Attempt:
    """An answer that is being made, and what is known of it so far.

    Attributes:
        request: What was asked.
        choice: Who answers.
        session: Digest of the session.
        replayed: Whether the rollout itself asked.
        refusal: What the model says it cannot serve.
        failed: Whether the model failed.
        aborted: Whether the client left.
    """

    request: Generation
    choice: Choice
    session: str
    replayed: bool = False
    refusal: Refusal | None = None
    failed: bool = False
    aborted: bool = False
    fell_back: bool = False
    finish_reason: FinishReason | None = None
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    started_at: float = field(default_factory=time.monotonic)
    _first_at: float | None = None
    _last_at: float | None = None
    _texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    async def pieces(self, engine: Engine, *, first_token_s: float, stall_s: float) -> AsyncGenerator[Piece]:
        """Streams the answer.

        Raises:
            AnswerBrokenError: The model failed, or let a deadline pass.
        """
        limit_s = first_token_s
        async with aclosing(engine.generate(self.request)) as stream:
            while self.finish_reason is None:
                try:
                    piece = await asyncio.wait_for(anext(stream), limit_s)
                except TimeoutError:
                    raise self._broken(f"no token for {limit_s:g} s") from None
                except StopAsyncIteration:
                    raise self._broken("the answer ended without a reason") from None
                except Exception as error:
                    raise self._broken(f"{type(error).__name__}: {error}") from error
                limit_s = stall_s
                if isinstance(piece, Refusal):
                    self.refusal = piece
                    return
                self._take(piece)
                yield piece

    def _take(self, piece: Piece) -> None:
        self._last_at = time.monotonic()
        if self._first_at is None:
            self._first_at = self._last_at
        self._texts.append(piece.text)
        self.num_tokens += piece.num_tokens
        self.num_prompt_tokens = piece.num_prompt_tokens
        self.finish_reason = piece.finish_reason

    def _broken(self, reason: str) -> AnswerBrokenError:
        self.failed = True
        return AnswerBrokenError(self.choice.model.version, reason[:500])

    def outcome(self, limits: Limits, *, keep_texts: bool, nats_per_byte: float | None = None) -> Outcome:
        """Gives the entry of the outcome log."""
        ttft_s = None if self._first_at is None else self._first_at - self.started_at
        tpot_s = None
        if self._first_at is not None and self._last_at is not None and self.num_tokens > 1:
            tpot_s = (self._last_at - self._first_at) / (self.num_tokens - 1)
        if nats_per_byte is not None and not math.isfinite(nats_per_byte):
            nats_per_byte = None
        bad: tuple[str, ...] = ()
        if not self.aborted:
            bad = defects(
                failed=self.failed,
                ttft_s=ttft_s,
                tpot_s=tpot_s,
                answer=self.text,
                nats_per_byte=nats_per_byte,
                limits=limits,
            )
        reason = "error" if self.failed else "abort" if self.aborted else self.finish_reason
        return Outcome(
            request_id=self.request.request_id,
            session=self.session,
            at=time.time(),
            variant=self.choice.variant,
            version=self.choice.model.version,
            status=502 if self.failed else 200,
            rollout=self.choice.rollout,
            step=self.choice.step,
            weight=self.choice.weight,
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            num_prompt_tokens=self.num_prompt_tokens,
            num_tokens=self.num_tokens,
            finish_reason=reason,
            bad=bad,
            nats_per_byte=nats_per_byte,
            fell_back=self.fell_back,
            replayed=self.replayed,
            prompt_digest=prompt_digest(self.request.text),
            prompt=self.request.text[:MAX_TEXT_CHARS] if keep_texts else None,
            answer=self.text[:MAX_TEXT_CHARS] if keep_texts else None,
        )
