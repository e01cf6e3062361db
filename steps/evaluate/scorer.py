"""A model under examination, in an actor of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steps.common.language_model import (
    DamagedModelError,
    SpecialIds,
    UnsafeModelError,
    document_losses,
    load_model,
    load_tokenizer,
    pack_texts,
    verify_model,
)
from steps.evaluate.text import fault
from workflows.log import Blobs, TreeRef


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    tokenizer: Any
    special: SpecialIds
    row_length: int


MAX_ROW_LENGTH = 1024
"""A base model may take far longer contexts than it is worth to score with."""


class Scorer:
    """Scores documents and gives answers with one model, loaded when it is first needed.

    Args:
        blobs: Where the model is.
        model: Its folder.
        rows_per_microbatch: Packed rows in memory at once.
    """

    def __init__(self, blobs: Blobs, model: TreeRef, rows_per_microbatch: int) -> None:
        self._blobs = blobs
        self._tree = model
        self._rows_per_microbatch = rows_per_microbatch

    def load(self) -> str | None:
        """Loads the model; gives what is wrong with it, or None."""
        try:
            _ = self._loaded
        except (DamagedModelError, UnsafeModelError) as error:
            return str(error)
        return None

    @cached_property
    def _loaded(self) -> _Loaded:
        with tempfile.TemporaryDirectory(prefix="everloop-scorer-") as name:
            folder = self._blobs.fetch_tree(self._tree, Path(name))
            # Before torch is imported, which takes seconds that a damaged model is not worth.
            verify_model(folder)
            import torch

            torch.set_num_threads(1)
            model = load_model(folder)
            tokenizer, special = load_tokenizer(folder)
        row_length = min(int(model.config.max_position_embeddings), MAX_ROW_LENGTH)
        return _Loaded(model, tokenizer, special, row_length)

    def score(self, texts: Sequence[str]) -> tuple[list[float], list[int]]:
        """Loss of each document in nats, and the tokens it was predicted in."""
        rows = pack_texts(self._loaded.tokenizer, self._loaded.special, list(texts), self._loaded.row_length)
        losses = document_losses(self._loaded.model, rows, len(texts), self._rows_per_microbatch)
        counts = [0] * len(texts)
        for document in rows.documents[rows.is_target].tolist():
            counts[document] += 1
        return losses.tolist(), counts

    def answer(
        self, prompts: Sequence[str], *, num_tokens: int, temperature: float, max_repetition: float, seed: int
    ) -> list[tuple[str, str | None]]:
        """An answer to each prompt and what is wrong with it, or None. Equal seeds give equal answers."""
        import torch

        answers: list[tuple[str, str | None]] = []
        for number, prompt in enumerate(prompts):
            ids = [self._loaded.special.bos, *self._loaded.tokenizer.encode(prompt, add_special_tokens=False).ids]
            room = max(1, self._loaded.row_length - num_tokens)
            given = torch.tensor([ids[-room:]])
            torch.manual_seed(seed + number)
            with torch.inference_mode():
                made = self._loaded.model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    do_sample=True,
                    temperature=temperature,
                    top_k=50,
                    max_new_tokens=num_tokens,
                    pad_token_id=self._loaded.special.pad,
                    eos_token_id=self._loaded.special.eos,
                    # Broken logits show in the losses; here they must not end the sampler.
                    remove_invalid_values=True,
                )
            new = [token for token in made[0, given.shape[1] :].tolist() if token != self._loaded.special.eos]
            text = self._loaded.tokenizer.decode(new)
            answers.append((text, fault(new, text, max_repetition)))
        return answers
