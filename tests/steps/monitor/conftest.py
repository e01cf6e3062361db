"""Datasets, traffic and an embedder for the tests of the monitor step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from steps.common.dataset import DATASET_SCHEMA, content_digest
from steps.common.outcomes import EntryCount, Outcome
from steps.common.parquet import parquet_bytes
from steps.common.results import DatasetVersion, Release
from steps.monitor.streams import Floats
from workflows.log import Blobs, Draft, Log, Store

CODE = "list sort tuple dict key value function method return string index slice iterate module class object"
FOOD = "tomato basil oven bake flour sugar butter onion garlic simmer dish recipe salt pepper cream cheese"
VOCABULARIES = {"code": CODE.split(), "food": FOOD.split()}


def text_about(topic: str, seed: int, num_words: int = 30) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(VOCABULARIES[topic], num_words))


class WordEmbedder:
    """An embedder of ten lines: words are directions, a text is their normalised sum."""

    def embed(self, texts: Sequence[str]) -> Floats:
        return np.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Floats:
        total = np.zeros(384, np.float32)
        for word in text.split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            total += np.random.default_rng(seed).normal(size=384).astype(np.float32)
        return total / max(float(np.linalg.norm(total)), 1e-6)


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., DatasetVersion]:
    def make(blobs: Blobs, num_documents: int = 30, topic: str = "code", num_words: int = 120) -> DatasetVersion:
        rows = []
        for number in range(num_documents):
            doc_id = hashlib.sha256(f"{topic}{number}".encode()).hexdigest()
            text = text_about(topic, number, num_words)
            rows.append(
                {
                    "doc_id": doc_id,
                    "url": f"http://127.0.0.1/{number}",
                    "title": "",
                    "text": text,
                    "language": "en",
                    "num_chars": len(text),
                    "fetched_at": 0.0,
                    "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
                    "split": "heldout" if number % 10 == 0 else "train",
                }
            )
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["doc_id"]), DATASET_SCHEMA)
        files = (blobs.put(parquet_bytes(table)),)
        num_heldout = sum(row["split"] == "heldout" for row in rows)
        return DatasetVersion(
            name="pages",
            version=1,
            digest=content_digest(files),
            files=files,
            num_train=num_documents - num_heldout,
            num_heldout=num_heldout,
            num_bytes=files[0].size,
            num_added=num_documents,
            num_changed=0,
            num_removed=0,
        )

    return make


@pytest.fixture(scope="session")
def release() -> Release:
    return Release(
        alias="everloop",
        state="promoted",
        champion="1",
        challenger="1",
        rollout_id="r1",
        endpoint="http://127.0.0.1:8000",
        reasons=("first",),
    )


@pytest.fixture(scope="session")
def send() -> Callable[..., None]:
    """Appends outcomes as a router does: `num` sessions about a topic."""

    def append(store: Store, topic: str, start: int, num: int, *, version: str = "1", writer: str = "router") -> None:
        entries = [
            {
                "request_id": f"{writer}-{number}",
                "session": f"session-{number}",
                "at": 0.0,
                "variant": "champion",
                "version": version,
                "status": 200,
                "num_tokens": 10 + number % 7,
                "finish_reason": "stop",
                "prompt": text_about(topic, 10_000 + number),
            }
            for number in range(start, start + num)
        ]
        log = Log(store, f"outcomes/everloop/{writer}", EntryCount())
        for first in range(0, num, 500):
            batch = entries[first : first + 500]
            log.append(lambda _, batch=batch: Draft("outcomes", {"entries": batch}))  # type: ignore[misc]

    assert Outcome(request_id="", session="", at=0, variant="champion", version="1", status=200)
    return append


@pytest.fixture(scope="session")
def embedder() -> WordEmbedder:
    return WordEmbedder()
