"""A small dataset version of text with something to learn in it, and a model that learns it in seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from steps.common.dataset import DATASET_SCHEMA, content_digest
from steps.common.language_model import ModelConfig
from steps.common.parquet import parquet_bytes
from steps.common.results import DatasetVersion
from workflows.log import Blobs, open_store

WORDS = (
    "the",
    "a",
    "list",
    "value",
    "returns",
    "module",
    "function",
    "of",
    "in",
    "None",
    "string",
    "object",
    "if",
    "key",
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Keeps torch's threads from waiting for each other on a machine that is busy."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _text(number: int) -> str:
    generator = np.random.default_rng(number)
    # Each word mostly decides the next: a model that looks back beats one that only counts.
    word, words = 0, []
    for _ in range(int(generator.integers(40, 120))):
        words.append(WORDS[word])
        word = (word * 5 + 3) % len(WORDS) if generator.random() < 0.9 else int(generator.integers(len(WORDS)))
    return " ".join(words) + ".\n"


@pytest.fixture
def learning_storage(tmp_path: Path) -> str:
    """URI of an empty storage."""
    return f"file://{tmp_path}/storage"


@pytest.fixture
def text_dataset(learning_storage: str) -> Callable[..., DatasetVersion]:
    """Makes a dataset version in the storage: `text_dataset(num_train, num_heldout)`."""

    def make(num_train: int = 40, num_heldout: int = 12) -> DatasetVersion:
        blobs = Blobs(open_store(learning_storage))
        rows = []
        for number in range(num_train + num_heldout):
            text, url = _text(number), f"http://127.0.0.1/{number}"
            row = {
                "doc_id": hashlib.sha256(url.encode()).hexdigest(),
                "url": url,
                "title": f"Page {number}",
                "text": text,
                "language": "en",
                "num_chars": len(text),
                "fetched_at": 0.0,
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "split": "train" if number < num_train else "heldout",
            }
            rows.append(row)
        rows.sort(key=lambda row: str(row["doc_id"]))
        file = blobs.put(parquet_bytes(pa.Table.from_pylist(rows, schema=DATASET_SCHEMA)))
        return DatasetVersion(
            name="words",
            version=1,
            digest=content_digest([file]),
            files=(file,),
            num_train=num_train,
            num_heldout=num_heldout,
            num_bytes=file.size,
            num_added=len(rows),
            num_changed=0,
            num_removed=0,
        )

    return make


@pytest.fixture
def small_model() -> ModelConfig:
    """A Llama of some ten thousand weights."""
    return ModelConfig(
        vocab_size=320, row_length=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64
    )
