"""A tiny Llama in a folder, made by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def save(folder: Path, *, seed: int, row_length: int = 128, missing_tokens: int = 0, damaged: bool = False) -> Path:
    """Writes a model folder with random weights and a byte-level tokenizer.

    Args:
        folder: Where to.
        seed: Of the weights.
        row_length: Context of the model.
        missing_tokens: Tokens of the tokenizer that the model has no row for.
        damaged: Leave a file that differs from the manifest.
    """
    from transformers.utils import logging

    from steps.common.language_model import ModelConfig, build_model, load_tokenizer, save_model
    from steps.common.language_model.tokenizer import save_tokenizer, train_tokenizer

    logging.disable_progress_bar()
    texts = ["the quick brown fox jumps over the lazy dog", "import os, sys", "returns a new string"] * 20
    made = folder.with_name(folder.name + "-tokenizer")
    save_tokenizer(train_tokenizer(texts, 320), made, row_length)
    tokenizer, special = load_tokenizer(made)
    config = ModelConfig(
        hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2, num_kv_heads=2, row_length=row_length
    )
    model = build_model(config, tokenizer.get_vocab_size() - missing_tokens, special, seed)
    save_model(model, {path.name: path.read_bytes() for path in made.iterdir()}, folder)
    if damaged:
        (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    return folder


@pytest.fixture(scope="session")
def save_model_folder() -> Callable[..., Path]:
    return save
