from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable

import pytest

from steps.common.language_model import EmptyCorpusError, MissingExtraError, ModelConfig, load_rows, prepare
from steps.common.language_model.corpus import find_corpus
from steps.common.results import DatasetVersion
from workflows.log import Blobs, open_store


def test_a_corpus_is_made_once_and_found_again(
    learning_storage: str, text_dataset: Callable[..., DatasetVersion], small_model: ModelConfig
) -> None:
    store, dataset = open_store(learning_storage), text_dataset()
    blobs = Blobs(store)
    assert find_corpus(store, blobs, dataset, small_model) is None
    corpus = prepare(store, blobs, dataset, small_model)
    assert find_corpus(store, blobs, dataset, small_model) == corpus
    assert find_corpus(store, blobs, dataset, small_model.model_copy(update={"row_length": 32})) is None
    train = load_rows(blobs, corpus.train)
    assert train.num_targets == corpus.num_train_tokens
    assert train.tokens.max() < corpus.vocab_size


@pytest.mark.parametrize("lost", ["train", "heldout", "tokenizer"])
def test_a_lost_corpus_is_made_again_byte_for_byte(
    learning_storage: str, text_dataset: Callable[..., DatasetVersion], small_model: ModelConfig, lost: str
) -> None:
    store, dataset = open_store(learning_storage), text_dataset()
    blobs = Blobs(store)
    corpus = prepare(store, blobs, dataset, small_model)
    store.delete(blobs.key(getattr(corpus, lost).sha256))
    assert find_corpus(store, blobs, dataset, small_model) is None
    assert prepare(store, blobs, dataset, small_model) == corpus
    assert find_corpus(store, blobs, dataset, small_model) == corpus


def test_an_unreadable_record_of_a_corpus_is_replaced(
    learning_storage: str, text_dataset: Callable[..., DatasetVersion], small_model: ModelConfig
) -> None:
    store, dataset = open_store(learning_storage), text_dataset()
    corpus = prepare(store, Blobs(store), dataset, small_model)
    [record] = store.list("derived/corpora/")
    store.put(record.key, b"no JSON")
    assert prepare(store, Blobs(store), dataset, small_model) == corpus


def test_a_split_without_text_is_named(
    learning_storage: str, text_dataset: Callable[..., DatasetVersion], small_model: ModelConfig
) -> None:
    store = open_store(learning_storage)
    with pytest.raises(EmptyCorpusError, match=r"words@v1.*split heldout.*no text in its 0 documents"):
        prepare(store, Blobs(store), text_dataset(num_heldout=0), small_model)


def test_settings_decide_the_digest(small_model: ModelConfig) -> None:
    assert small_model.digest == ModelConfig(**small_model.model_dump()).digest
    assert small_model.digest != small_model.model_copy(update={"vocab_size": 321}).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "num_heads=4 must divide hidden_size=30"),
        ({"hidden_size": 12, "num_heads": 4, "num_kv_heads": 2}, "must be even"),
        ({"num_heads": 6, "num_kv_heads": 4}, "num_kv_heads=4 must divide num_heads=6"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_impossible_shapes_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)  # type: ignore[arg-type]


def test_errors_travel() -> None:
    for error in (EmptyCorpusError("words@v1", "train", "is empty"), MissingExtraError("smollm2", "peft")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
    assert "extra `smollm2`" in str(MissingExtraError("smollm2", "peft"))


def test_a_corpus_is_a_record_of_references(
    learning_storage: str, text_dataset: Callable[..., DatasetVersion], small_model: ModelConfig
) -> None:
    store = open_store(learning_storage)
    corpus = prepare(store, Blobs(store), text_dataset(), small_model)
    assert len(str(dataclasses.asdict(corpus))) < 2000
