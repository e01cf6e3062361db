"""Sentence embeddings without torch: unit vectors, meaning, and the same numbers as transformers."""

from __future__ import annotations

import numpy as np
import pytest

from steps.common.embedding import EMBEDDING_SIZE, Embedder, _model_folder

TEXTS = [
    "How do I sort a list in Python?",
    "",
    "Sorting lists: `list.sort` and sorted().",
    "Das Wetter ist heute sehr schön.",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(max_tokens=32, batch_size=2)


def test_vectors_are_unit_length_in_the_order_of_the_texts(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), EMBEDDING_SIZE)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(embedder.embed(TEXTS[::-1])[::-1], vectors, atol=1e-5)


def test_like_meaning_is_nearer_than_another_subject(embedder: Embedder) -> None:
    question, _, answer, weather = embedder.embed(TEXTS)
    assert question @ answer > 0.5 > question @ weather


def test_no_texts_are_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, EMBEDDING_SIZE)


def test_length_beyond_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=513"):
        Embedder(max_tokens=513)


def test_agrees_with_transformers(embedder: Embedder) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(_model_folder(), local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(_model_folder(), local_files_only=True)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=2e-6)
