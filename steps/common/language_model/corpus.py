"""A dataset version as a model sees it: tokenizer and packed rows, made once and shared by tune and train.

Derived from (dataset version, model configuration) and kept under `derived/corpora/`; it may be lost at any time, and
is then made again, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steps.common.dataset import Split, read_table
from steps.common.language_model.base import base_folder
from steps.common.language_model.config import ModelConfig
from steps.common.language_model.errors import EmptyCorpusError
from steps.common.language_model.loss import unigram_loss
from steps.common.language_model.packing import PackedRows, pack
from steps.common.language_model.tokenizer import (
    SpecialIds,
    encode_documents,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from steps.common.results import DatasetVersion
from workflows.log import BlobRef, Blobs, LogError, Store, TreeRef, decode, encode

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

FORMAT = 1
"""Part of the key: raise it when the same inputs are to give another corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """References to what training needs.

    Attributes:
        tokenizer: Folder in Hugging Face form.
        base: Folder of the base model, or None for random first weights.
        train: Packed rows of the training split, safetensors.
        heldout: Packed rows of the held-out split, safetensors.
        vocab_size: Tokens in the vocabulary.
        special: Ids of the special tokens.
        num_train_tokens: Tokens predicted in one pass over `train`.
        num_heldout_tokens: Tokens predicted in `heldout`.
        unigram_loss: Loss of the unigram model of `train` on `heldout`, nats per token.
    """

    tokenizer: TreeRef
    base: TreeRef | None
    train: BlobRef
    heldout: BlobRef
    vocab_size: int
    special: SpecialIds
    num_train_tokens: int
    num_heldout_tokens: int
    unigram_loss: float


def prepare(store: Store, blobs: Blobs, dataset: DatasetVersion, model: ModelConfig) -> Corpus:
    """Finds the corpus of a dataset version, or makes it.

    Raises:
        EmptyCorpusError: A split has no text.
        MissingExtraError: The base model's package is not installed.
    """
    corpus = find_corpus(store, blobs, dataset, model)
    if corpus is None:
        corpus = _make(blobs, dataset, model)
        store.put(_key(dataset, model), json.dumps(encode(corpus, blobs)).encode())
    return corpus


def prepare_on_worker(store: Store, blobs: Blobs, dataset: DatasetVersion, model: ModelConfig) -> Corpus:
    """Like `prepare`, but makes the corpus in a Ray task with a CPU of its own: a coordinator has none."""
    corpus = find_corpus(store, blobs, dataset, model)
    if corpus is None:
        import ray

        corpus = ray.get(ray.remote(num_cpus=1, max_retries=2)(prepare).remote(store, blobs, dataset, model))
    return corpus


def find_corpus(store: Store, blobs: Blobs, dataset: DatasetVersion, model: ModelConfig) -> Corpus | None:
    """The corpus of a dataset version, if it was made before and is whole; its blobs are renewed."""
    key = _key(dataset, model)
    if store.head(key) is None:
        return None
    try:
        corpus = decode(json.loads(store.get(key)), blobs)
        # What is derived may be collected: a record is only worth something while its blobs are there.
        for ref in (corpus.tokenizer, corpus.train, corpus.heldout, corpus.base):
            if ref is not None:
                blobs.keep(ref)
    except (LogError, ValueError, AttributeError, LookupError, TypeError) as error:
        logger.info("the recorded corpus is not whole (%s); making it again", error)
        return None
    return corpus if isinstance(corpus, Corpus) else None


def _key(dataset: DatasetVersion, model: ModelConfig) -> str:
    identity = f"{FORMAT}\n{dataset.digest}\n{model.digest}"
    return f"derived/corpora/{hashlib.sha256(identity.encode()).hexdigest()}.json"


def load_rows(blobs: Blobs, ref: BlobRef) -> PackedRows:
    """Packed rows from storage."""
    from safetensors.numpy import load

    arrays = load(blobs.get(ref))
    return PackedRows(arrays["tokens"], arrays["positions"], arrays["documents"])


def pack_texts(tokenizer: Tokenizer, special: SpecialIds, texts: list[str], row_length: int) -> PackedRows:
    """Tokenizes and packs texts; document `n` is the text `n`."""
    return pack(encode_documents(tokenizer, special, texts), row_length, special.pad)


def _make(blobs: Blobs, dataset: DatasetVersion, model: ModelConfig) -> Corpus:
    train_texts, heldout_texts = (_texts(blobs, dataset, split) for split in ("train", "heldout"))
    with tempfile.TemporaryDirectory(prefix="everloop-corpus-") as name:
        folder = Path(name) / "tokenizer"
        base = base_folder(model, Path(name)) if model.base != "scratch" else None
        if base is None:
            save_tokenizer(train_tokenizer(train_texts, model.vocab_size), folder, model.row_length)
        else:
            folder = base.tokenizer
        tokenizer, special = load_tokenizer(folder)
        train = pack_texts(tokenizer, special, train_texts, model.row_length)
        heldout = pack_texts(tokenizer, special, heldout_texts, model.row_length)
        vocab_size = max(tokenizer.get_vocab_size(), base.vocab_size if base else 0)
        return Corpus(
            tokenizer=blobs.put_tree(folder),
            base=blobs.put_tree(base.model) if base else None,
            train=_put_rows(blobs, train),
            heldout=_put_rows(blobs, heldout),
            vocab_size=vocab_size,
            special=special,
            num_train_tokens=train.num_targets,
            num_heldout_tokens=heldout.num_targets,
            unigram_loss=unigram_loss(train, heldout, vocab_size),
        )


def _texts(blobs: Blobs, dataset: DatasetVersion, split: Split) -> list[str]:
    texts = [str(text) for text in read_table(blobs, dataset, split, ["text"])["text"].to_pylist()]
    if not any(text.strip() for text in texts):
        raise EmptyCorpusError(str(dataset), split, f"has no text in its {len(texts)} documents")
    return texts


def _put_rows(blobs: Blobs, rows: PackedRows) -> BlobRef:
    from safetensors.numpy import save

    arrays = {"tokens": rows.tokens, "positions": rows.positions, "documents": rows.documents}
    return blobs.put(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
