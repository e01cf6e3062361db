"""What the detectors look at: one prompt of each session, and passages of documents that stand in for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from steps.common.dataset import read_table
from steps.common.outcomes import Outcome
from steps.common.results import DatasetVersion
from steps.monitor.streams import Floats
from workflows.log import Blobs

PROMPT_SCALARS = ("word_length", "letter_share", "digit_share", "english_score")
"""Scalars of a text that do not depend on its length, so that passages of documents can stand for prompts."""

TRAFFIC_SCALARS = ("num_chars", "num_answer_tokens", "cut_short")
"""Scalars that only real traffic has."""

_SESSION_DIGITS = 12  # hex digits of a session's digest that are remembered


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        group: What it hangs together with: a session or a document.
        text: The prompt.
        num_answer_tokens: Tokens of the answer; None for a passage.
        cut_short: Whether the answer ended by its length limit; None for a passage.
    """

    group: str
    text: str
    num_answer_tokens: int | None = None
    cut_short: bool | None = None


def session_mark(session: str) -> str:
    """A short name of a session, for remembering that it was seen."""
    return hashlib.sha256(session.encode()).hexdigest()[:_SESSION_DIGITS]


def prompts_of_sessions(outcomes: Iterable[Outcome], seen: Collection[str] = ()) -> Iterator[Prompt]:
    """Gives the first prompt of each new session; prompts of one session are alike, and would count as drift.

    Args:
        outcomes: In the order of the log. Replayed prompts, shadow copies and outcomes without a text are passed over.
        seen: Marks of sessions that were there before.
    """
    known = set(seen)
    for outcome in outcomes:
        if outcome.replayed or outcome.prompt is None:
            continue
        mark = session_mark(outcome.session)
        if mark not in known:
            known.add(mark)
            yield Prompt(mark, outcome.prompt, outcome.num_tokens, outcome.finish_reason == "length")


def passages(blobs: Blobs, dataset: DatasetVersion, *, num_wanted: int, num_chars: int) -> list[Prompt]:
    """Cuts documents into passages, first one of each document, then a second one, held-out documents first.

    Args:
        blobs: Where the dataset is.
        dataset: The version to read.
        num_wanted: Most passages returned.
        num_chars: Length of a passage; it is cut at a blank.
    """
    cut: list[list[Prompt]] = []
    for split in ("heldout", "train"):
        table = read_table(blobs, dataset, split, ["doc_id", "text"])
        for doc_id, text in zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), strict=True):
            cut.append([Prompt(doc_id, piece) for piece in _pieces(text, num_chars)])
    rounds = range(max(map(len, cut), default=0))
    return [pieces[turn] for turn in rounds for pieces in cut if turn < len(pieces)][:num_wanted]


def _pieces(text: str, num_chars: int) -> list[str]:
    pieces: list[str] = []
    piece = ""
    for word in text.split():
        piece = f"{piece} {word}" if piece else word
        if len(piece) >= num_chars:
            pieces.append(piece[:num_chars])
            piece = ""
    is_only = not pieces and bool(piece)
    return [*pieces, piece] if is_only or len(piece) >= num_chars // 2 else pieces


def scalar_names(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The scalars that all these prompts have."""
    is_traffic = all(prompt.num_answer_tokens is not None for prompt in prompts)
    return PROMPT_SCALARS + TRAFFIC_SCALARS if is_traffic else PROMPT_SCALARS


def scalars(prompts: Sequence[Prompt], names: Sequence[str]) -> Floats:
    """Computes scalars, shape [len(prompts), len(names)]."""
    rows = [[_SCALARS[name](prompt) for name in names] for prompt in prompts]
    return np.asarray(rows, np.float32).reshape(len(prompts), len(names))


def _english_score(text: str) -> float:
    """How much likelier English is than the likeliest other language, in nats per character."""
    ranked = dict(_identifier().rank(text[:200]))
    english = float(ranked.pop("en"))
    return (english - float(max(ranked.values()))) / max(len(text[:200]), 1)


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


_SCALARS: Mapping[str, Callable[[Prompt], float]] = {
    "word_length": lambda prompt: len(prompt.text) / max(len(prompt.text.split()), 1),
    "letter_share": lambda prompt: sum(map(str.isalpha, prompt.text)) / max(len(prompt.text), 1),
    "digit_share": lambda prompt: sum(map(str.isdigit, prompt.text)) / max(len(prompt.text), 1),
    "english_score": lambda prompt: _english_score(prompt.text),
    "num_chars": lambda prompt: float(len(prompt.text)),
    "num_answer_tokens": lambda prompt: float(prompt.num_answer_tokens or 0),
    "cut_short": lambda prompt: float(prompt.cut_short or False),
}
