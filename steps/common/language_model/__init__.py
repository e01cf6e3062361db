"""The language model that tune, train and evaluate share: shape, tokenizer, packed rows, optimizer step, folders."""

from __future__ import annotations

from steps.common.language_model.config import ModelConfig
from steps.common.language_model.corpus import Corpus, load_rows, pack_texts, prepare, prepare_on_worker
from steps.common.language_model.errors import (
    DamagedModelError,
    EmptyCorpusError,
    LanguageModelError,
    MissingExtraError,
    UnsafeModelError,
)
from steps.common.language_model.loss import document_losses, token_losses, total_loss
from steps.common.language_model.model import build_model, load_model, num_parameters, save_model, verify_model
from steps.common.language_model.optimization import Hyperparameters, learning_rate, make_optimizer, train_step
from steps.common.language_model.order import RowOrder, share
from steps.common.language_model.packing import PackedRows, pack
from steps.common.language_model.tokenizer import SpecialIds, load_tokenizer

__all__ = [
    # shape and data
    "ModelConfig",
    "Corpus",
    "prepare",
    "prepare_on_worker",
    "load_rows",
    "pack_texts",
    "PackedRows",
    "pack",
    "SpecialIds",
    "load_tokenizer",
    # models
    "build_model",
    "save_model",
    "load_model",
    "verify_model",
    "num_parameters",
    # learning and judging
    "Hyperparameters",
    "learning_rate",
    "make_optimizer",
    "train_step",
    "RowOrder",
    "share",
    "token_losses",
    "total_loss",
    "document_losses",
    # errors
    "LanguageModelError",
    "EmptyCorpusError",
    "UnsafeModelError",
    "DamagedModelError",
    "MissingExtraError",
]
