from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from steps.deploy.batching import BatchEngine
from steps.deploy.generation import Generation, Piece, Refusal
from steps.deploy.text_stream import HALF_CHARACTER

CONTEXT = 64


class ByteTokenizer:
    """Ids are bytes; 256 ends a text."""

    eos_token_id = 256
    bos_token_id = 256

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, ids: list[int], **_: Any) -> str:
        return bytes(token for token in ids if token < 256).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def engine() -> Iterator[BatchEngine]:
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=256,
        bos_token_id=256,
        initializer_range=0.5,
    )
    made = BatchEngine(LlamaForCausalLM(config).eval(), ByteTokenizer(), max_batch=4, max_context=CONTEXT)
    yield made
    made.close()


def ask(engine: BatchEngine, prompt: str, **settings: Any) -> queue.Queue[Any]:
    pieces: queue.Queue[Any] = queue.Queue()
    engine.submit(Generation(request_id=prompt, prompt=prompt, **settings), pieces.put)
    return pieces


def collect(pieces: queue.Queue[Any]) -> list[Piece]:
    got: list[Piece] = []
    while not got or got[-1].finish_reason is None:
        piece = pieces.get(timeout=60)
        if isinstance(piece, Exception):
            raise piece
        got.append(piece)
    return got


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def greedy(engine: BatchEngine, prompt: str, num_tokens: int) -> list[int]:
    import torch

    ids = list(prompt.encode())
    with torch.inference_mode():
        for _ in range(num_tokens):
            token = int(engine.model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
            if token == 256:
                break
    return ids[len(prompt.encode()) :]


def test_requests_that_join_and_leave_a_running_batch_get_the_answers_they_get_alone(engine: BatchEngine) -> None:
    prompts = ["a", "the quick brown fox", "x" * 30, "mid length", "zz top", "0123456789abcdef", "q"]
    lengths = [30, 5, 20, 12, 1, 25, 40]
    expected = [ByteTokenizer().decode(greedy(engine, p, n)) for p, n in zip(prompts, lengths, strict=True)]
    asked = [ask(engine, p, max_tokens=n, temperature=0) for p, n in zip(prompts, lengths, strict=True)]
    assert [text_of(collect(pieces)) for pieces in asked] == expected


def test_a_seed_repeats_a_sampled_answer(engine: BatchEngine) -> None:
    def answer(seed: int) -> str:
        return text_of(collect(ask(engine, "once", max_tokens=20, temperature=1.0, top_p=0.9, seed=seed)))

    assert answer(7) == answer(7)
    assert len({answer(seed) for seed in range(5)}) > 1


def test_tiny_top_p_is_the_same_as_picking_the_likeliest(engine: BatchEngine) -> None:
    likeliest = text_of(collect(ask(engine, "once", max_tokens=12, temperature=0)))
    assert text_of(collect(ask(engine, "once", max_tokens=12, temperature=1.0, top_p=1e-6))) == likeliest


def test_usage_and_finish_reason_tell_how_long_the_answer_was(engine: BatchEngine) -> None:
    pieces = collect(ask(engine, "hello", max_tokens=9, temperature=0))
    assert pieces[-1].finish_reason in {"length", "stop"}
    assert pieces[-1].num_prompt_tokens == 5
    assert sum(piece.num_tokens for piece in pieces) == len(greedy(engine, "hello", 9))


def test_without_max_tokens_the_answer_fills_the_context(engine: BatchEngine) -> None:
    pieces = collect(ask(engine, "hello", temperature=0))
    assert sum(piece.num_tokens for piece in pieces) == len(greedy(engine, "hello", CONTEXT - 5))


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(engine: BatchEngine) -> None:
    whole = text_of(collect(ask(engine, "hello", max_tokens=30, temperature=0)))
    stop = whole[6:9]
    pieces = collect(ask(engine, "hello", max_tokens=30, temperature=0, stop=(stop,)))
    assert text_of(pieces) == whole[: whole.find(stop)]
    assert pieces[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "field"), [("x" * CONTEXT, 1, "prompt"), ("x" * 60, 10, "max_tokens")]
)
def test_what_does_not_fit_the_context_is_refused_with_the_field(
    engine: BatchEngine, prompt: str, max_tokens: int, field: str
) -> None:
    refusal = ask(engine, prompt, max_tokens=max_tokens).get(timeout=60)
    assert isinstance(refusal, Refusal)
    assert refusal.field == field
    assert str(CONTEXT) in refusal.message


def test_a_cancelled_request_makes_room_for_the_next(engine: BatchEngine) -> None:
    dropped: queue.Queue[Any] = queue.Queue()
    cancels = [engine.submit(Generation(request_id=str(n), prompt="x", temperature=0), dropped.put) for n in range(4)]
    for cancel in cancels:
        cancel()
    assert collect(ask(engine, "next", max_tokens=2, temperature=0))


def test_an_error_of_the_model_reaches_those_who_wait_and_the_engine_lives_on(engine: BatchEngine) -> None:
    model, engine.model = engine.model, lambda **_: 1 / 0
    try:
        with pytest.raises(ZeroDivisionError):
            collect(ask(engine, "hello", max_tokens=2))
    finally:
        engine.model = model
    assert engine.alive
    assert collect(ask(engine, "hello", max_tokens=2))


def test_likelier_answers_have_the_lower_score(engine: BatchEngine) -> None:
    likely = ByteTokenizer().decode(greedy(engine, "hello", 12))
    if HALF_CHARACTER in likely:
        likely = likely.replace(HALF_CHARACTER, "")
    scores = engine.score("hello", likely), engine.score("hello", "Qz%Qz%Qz%Qz%")
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] < scores[1]
    assert engine.score("hello", "") is None
