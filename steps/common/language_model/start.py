"""The model that training starts from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from steps.common.language_model.base import add_lora, load_base
from steps.common.language_model.config import ModelConfig
from steps.common.language_model.corpus import Corpus
from steps.common.language_model.model import build_model
from workflows.log import Blobs


def first_model(config: ModelConfig, corpus: Corpus, blobs: Blobs, seed: int) -> Any:
    """Random weights, or a base model with fresh adapters; equal seeds give equal weights."""
    if corpus.base is None:
        return build_model(config, corpus.vocab_size, corpus.special, seed)
    with tempfile.TemporaryDirectory(prefix="everloop-base-") as folder:
        return add_lora(load_base(blobs.fetch_tree(corpus.base, Path(folder))), config, seed)
