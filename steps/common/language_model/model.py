"""A Llama in a folder: made, saved, verified, loaded.

A model folder holds safetensors, JSON and the tokenizer, and `manifest.json` with the SHA-256 of each file, written
last. Loading checks the folder first and refuses whatever could run code: pickles, `auto_map`, symbolic links, files
that the manifest does not name (see `steps.common.model_gate`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from steps.common import model_gate
from steps.common.language_model.config import ModelConfig
from steps.common.language_model.errors import DamagedModelError
from steps.common.language_model.light_transformers import light_transformers
from steps.common.language_model.tokenizer import SpecialIds

MANIFEST = "manifest.json"


def build_model(config: ModelConfig, vocab_size: int, special: SpecialIds, seed: int) -> Any:
    """A Llama with random weights; equal seeds give equal weights, and torch's own random state stays as it was.

    Args:
        config: Its shape.
        vocab_size: Tokens that the tokenizer really has.
        special: Ids written into its configuration.
        seed: Of the weights.
    """
    import torch

    transformers = light_transformers()
    shape = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.row_length,
        tie_word_embeddings=True,
        use_cache=True,
        attn_implementation="sdpa",
        pad_token_id=special.pad,
        bos_token_id=special.bos,
        eos_token_id=special.eos,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(shape)


def save_model(model: Any, tokenizer_files: dict[str, bytes], folder: Path) -> None:
    """Writes weights and configuration, then the tokenizer, then the manifest of all."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for name, data in tokenizer_files.items():
        (folder / name).write_bytes(data)
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file of a folder; last, because a folder without a manifest is unfinished."""
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "files": files}, indent=2, sort_keys=True))


def verify_model(folder: Path) -> None:
    """Checks a model folder without loading it.

    Raises:
        UnsafeModelError: It holds something that could run code, or that nobody vouches for.
        DamagedModelError: A file is missing or differs from the manifest.
    """
    model_gate.check_model(folder, _read_manifest(folder), beside=frozenset({MANIFEST}))


def load_model(folder: Path) -> Any:
    """Verifies and loads a model in float32, ready to be asked.

    Raises:
        UnsafeModelError: See `verify_model`.
        DamagedModelError: Also if a weight is not finite.
    """
    verify_model(folder)
    import torch

    model = light_transformers().LlamaForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    for name, weight in model.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise DamagedModelError(name, "weights that are not finite")
    return model.eval()


def num_parameters(model: Any) -> int:
    """Weights of a model; tied ones count once."""
    return sum(int(weight.numel()) for weight in model.parameters())


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return {str(name): str(digest) for name, digest in manifest["files"].items()}
    except FileNotFoundError:
        raise DamagedModelError(MANIFEST, "missing: the folder was never finished") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise DamagedModelError(MANIFEST, f"unreadable: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
