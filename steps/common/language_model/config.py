"""The architecture of the language model: what tune, train and evaluate must agree on."""

from __future__ import annotations

import hashlib
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Shape of a Llama, and where its tokenizer and first weights come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Literal["scratch", "smollm2"] = Field(
        "scratch",
        description="First weights. scratch: random ones, and a byte-level BPE tokenizer trained on the dataset. "
        "smollm2: SmolLM2-135M-Instruct with its own tokenizer, fine-tuned through LoRA (extra `smollm2`); its own "
        "shape replaces the sizes below.",
    )
    vocab_size: int = Field(2048, ge=300, le=262_144, description="Tokens in the vocabulary, special ones included.")
    row_length: int = Field(256, ge=16, le=131_072, description="Tokens in a packed row: the longest context trained.")
    hidden_size: int = Field(192, ge=8, description="Width of the residual stream.")
    num_layers: int = Field(3, ge=1, le=200, description="Transformer blocks.")
    num_heads: int = Field(6, ge=1, description="Attention heads; divides hidden_size.")
    num_kv_heads: int = Field(3, ge=1, description="Key-value heads; divides num_heads.")
    intermediate_size: int = Field(512, ge=8, description="Width inside the feed-forward block.")
    lora_rank: int = Field(8, ge=1, le=256, description="Rank of the LoRA adapters of a base model.")
    lora_alpha: float = Field(16.0, gt=0, description="Scale of the LoRA adapters: alpha / rank.")

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide hidden_size={self.hidden_size}")
        if (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} / num_heads={self.num_heads} must be even: rotary positions turn pairs"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all settings: equal digests, interchangeable corpora."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
