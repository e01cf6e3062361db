"""Continuous batching for one model: requests join and leave the running batch between two tokens.

Takes `Generation`s from any thread, gives `Piece`s to a callback, from one thread that owns the model. New requests are
prefilled together, left-padded, and merged into the running batch by padding the shorter key-value cache on the left;
positions are given explicitly, so padding changes no answer. The idea is Orca's iteration-level scheduling (Yu et al.,
OSDI 2022), in the small: no paging, sized for models that fit a CPU.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from steps.deploy.generation import FinishReason, Generation, Piece, Refusal, plain_chat
from steps.deploy.text_stream import TextStream

logger = logging.getLogger(__name__)

Deliver = Callable[[Piece | Refusal | Exception], None]


@dataclass(eq=False, slots=True)
class Row:
    """One request in the batch."""

    request: Generation
    deliver: Deliver
    prompt: list[int]
    max_tokens: int
    text: TextStream
    generator: Any
    last_token: int = -1
    length: int = 0
    num_tokens: int = 0
    cancelled: bool = False


@dataclass(eq=False)
class BatchEngine:
    """Generates for many requests at once.

    Attributes:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        max_batch: Most requests that generate at the same time; others wait their turn.
        max_context: Most tokens of prompt and answer together.
    """

    model: Any
    tokenizer: Any
    max_batch: int
    max_context: int
    _waiting: list[Row] = field(default_factory=list)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _model_lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def __post_init__(self) -> None:
        self._eos = _end_tokens(self.model, self.tokenizer)
        self._batch: _Batch | None = None
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, request: Generation, deliver: Deliver) -> Callable[[], None]:
        """Queues a request; pieces, or one refusal, or one error, go to `deliver` from the model's thread.

        Returns:
            A function that cancels the request.
        """
        row = self._row(request, deliver)
        if isinstance(row, Refusal):
            deliver(row)
            return lambda: None
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.append(row)
            self._wake.notify()

        def cancel() -> None:
            row.cancelled = True

        return cancel

    def score(self, prompt: str, answer: str) -> float | None:
        """Gives the nats per byte of an answer after a prompt; None if nothing of it fits the context."""
        import torch

        num_bytes = len(answer.encode("utf-8", "surrogatepass"))
        ids = self._ids(prompt)[-self.max_context // 2 :]
        continued = self.tokenizer(answer, add_special_tokens=False)["input_ids"][: self.max_context - len(ids)]
        if not ids or not continued or not num_bytes:
            return None
        scored = len(self.tokenizer.decode(continued, skip_special_tokens=True).encode("utf-8", "surrogatepass"))
        with self._model_lock, torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([ids + continued]), use_cache=False).logits[0, len(ids) - 1 : -1]
            losses = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(continued), reduction="sum")
        return float(losses) / max(1, scored)

    def close(self) -> None:
        """Ends the thread after the running step."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        # A tokenizer that puts an end-of-text after each text would end every answer before it began.
        return ids[:-1] if len(ids) > 1 and ids[-1] in self._eos else ids

    def _row(self, request: Generation, deliver: Deliver) -> Row | Refusal:
        import torch

        name = "prompt" if request.prompt is not None else "messages"
        ids = self._ids(request.prompt if request.prompt is not None else self._chat(request)) or [
            self.tokenizer.bos_token_id or min(self._eos, default=0)
        ]
        room = self.max_context - len(ids)
        if room < 1:
            message = f"the model's context has {self.max_context} tokens, but {name} has {len(ids)}"
            return Refusal(field=name, message=message, code="context_length_exceeded")
        if request.max_tokens is not None and request.max_tokens > room:
            message = (
                f"the model's context has {self.max_context} tokens, but {name} has {len(ids)} and "
                f"max_tokens asks for {request.max_tokens} more"
            )
            return Refusal(field="max_tokens", message=message, code="context_length_exceeded")
        generator = None
        if request.seed is not None:
            generator = torch.Generator().manual_seed(request.seed % 2**63)
        text = TextStream(self._decode, ids, request.stop)
        max_tokens = room if request.max_tokens is None else request.max_tokens
        return Row(request, deliver, ids, max_tokens, text, generator)

    def _chat(self, request: Generation) -> str:
        if getattr(self.tokenizer, "chat_template", None):
            messages = [dict(message) for message in request.messages]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return plain_chat(request.messages)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _run(self) -> None:
        import torch

        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting or self._batch is not None)
                if self._closed:
                    return
                room = self.max_batch - (len(self._batch.rows) if self._batch else 0)
                joining, self._waiting = self._waiting[:room], self._waiting[room:]
            joining = [row for row in joining if not row.cancelled]
            try:
                with self._model_lock, torch.inference_mode():
                    self._advance(joining)
            except Exception as error:
                logger.exception("generation failed")
                for row in {*joining, *(self._batch.rows if self._batch else ())}:
                    row.deliver(error)
                self._batch = None

    def _advance(self, joining: list[Row]) -> None:
        if self._batch is not None:
            self._batch.step(self.model)
            self._batch = self._settle(self._batch)
        if joining:
            fresh = self._settle(_Batch.prefill(self.model, joining))
            if fresh is not None:
                self._batch = fresh if self._batch is None else self._batch.merged(fresh)

    def _settle(self, batch: _Batch) -> _Batch | None:
        """Delivers the new token of each row, and drops the rows that ended."""
        kept = [at for at, row in enumerate(batch.rows) if self._deliver(row)]
        if len(kept) == len(batch.rows):
            return batch
        return batch.selected(kept) if kept else None

    def _deliver(self, row: Row) -> bool:
        if row.cancelled:
            return False
        row.num_tokens += 1
        reason: FinishReason | None = None
        if row.last_token in self._eos:
            text, reason = row.text.finish(), "stop"
        else:
            text = row.text.push(row.last_token)
            if row.text.stopped:
                reason = "stop"
            elif row.num_tokens >= row.max_tokens:
                text, reason = text + row.text.finish(), "stop" if row.text.stopped else "length"
        piece = Piece(text=text, num_tokens=1, num_prompt_tokens=len(row.prompt), finish_reason=reason)
        row.deliver(piece)
        return reason is None


class _Batch:
    """Rows that generate together: their key-value cache, and which of its columns each row may look at.

    Attributes:
        rows: One per line of the tensors.
        cache: Per layer keys and values, `[rows, heads, columns, head_dim]`.
        mask: `[rows, columns]`, 1 where the column holds a token of the row, 0 for padding on the left.
    """

    def __init__(self, rows: list[Row], cache: Any, mask: Any) -> None:
        self.rows, self.cache, self.mask = rows, cache, mask

    @property
    def layers(self) -> list[tuple[Any, Any]]:
        return [(layer.keys, layer.values) for layer in self.cache.layers]

    @classmethod
    def of(cls, rows: list[Row], layers: list[tuple[Any, Any]], mask: Any) -> _Batch:
        from transformers import DynamicCache

        return cls(rows, DynamicCache(layers), mask)

    @classmethod
    def prefill(cls, model: Any, rows: list[Row]) -> _Batch:
        import torch

        width = max(len(row.prompt) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, width - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[at, width - len(row.prompt) :] = 1
            row.length = len(row.prompt)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        _sample(out.logits[:, -1], rows)
        return cls(rows, out.past_key_values, mask)

    def step(self, model: Any) -> None:
        import torch

        ids = torch.tensor([[row.last_token] for row in self.rows])
        positions = torch.tensor([[row.length] for row in self.rows])
        self.mask = torch.cat([self.mask, torch.ones(len(self.rows), 1, dtype=torch.long)], dim=1)
        out = model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        for row in self.rows:
            row.length += 1
        _sample(out.logits[:, -1], self.rows)

    def merged(self, other: _Batch) -> _Batch:
        import torch

        width = max(self.mask.shape[1], other.mask.shape[1])
        mine, theirs = self._widened(width), other._widened(width)
        layers = [
            (torch.cat([keys, more_keys]), torch.cat([values, more_values]))
            for (keys, values), (more_keys, more_values) in zip(mine.layers, theirs.layers, strict=True)
        ]
        return _Batch.of(mine.rows + theirs.rows, layers, torch.cat([mine.mask, theirs.mask]))

    def selected(self, kept: list[int]) -> _Batch:
        mask = self.mask[kept]
        # Columns that are padding for everyone left are cut, so that a long request does not slow the batch after it.
        start = int(mask.argmax(dim=1).min())
        layers = [(keys[kept][:, :, start:], values[kept][:, :, start:]) for keys, values in self.layers]
        return _Batch.of([self.rows[at] for at in kept], layers, mask[:, start:])

    def _widened(self, width: int) -> _Batch:
        from torch.nn.functional import pad

        more = width - self.mask.shape[1]
        if not more:
            return self
        layers = [(pad(keys, (0, 0, more, 0)), pad(values, (0, 0, more, 0))) for keys, values in self.layers]
        return _Batch.of(self.rows, layers, pad(self.mask, (more, 0)))


def _sample(logits: Any, rows: list[Row]) -> None:
    """Chooses the next token of each row from `logits`, `[rows, vocabulary]`."""
    import torch

    likeliest = logits.argmax(-1).tolist()
    for at, row in enumerate(rows):
        request = row.request
        if request.temperature == 0:
            row.last_token = likeliest[at]
            continue
        probabilities = torch.softmax(logits[at].float() / request.temperature, -1)
        if request.top_p < 1:
            ordered, order = probabilities.sort(descending=True)
            # A token stays if those before it have not reached top_p yet, so the likeliest always stays.
            ordered[ordered.cumsum(0) - ordered >= request.top_p] = 0
            row.last_token = int(order[torch.multinomial(ordered, 1, generator=row.generator)])
        else:
            row.last_token = int(torch.multinomial(probabilities, 1, generator=row.generator))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*listed, tokenizer.eos_token_id) if token is not None)
