"""Settings of the evaluation."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EvaluateConfig(BaseModel):
    """How much is looked at, and what must be shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the interval that decides.")
    margin: float = Field(
        0.0,
        ge=0,
        description="Nats per byte by which a challenger may be worse and still be promoted, as it learned from "
        "fresher data; 0 asks for proof that it is better.",
    )
    min_documents: int = Field(10, ge=2, description="Held-out documents without which nothing is decided.")
    max_documents: int = Field(500, ge=2, description="Held-out documents scored at most, chosen by hash.")
    max_document_chars: int = Field(8000, ge=100, description="Characters of a document that are scored.")
    documents_per_batch: int = Field(16, ge=1, description="Documents between checkpoints: the most a crash costs.")
    rows_per_microbatch: int = Field(8, ge=1, description="Packed rows in memory at once.")
    num_resamples: int = Field(4000, ge=200, description="Resamples of the bootstrap.")
    prompts: tuple[str, ...] = Field(
        ("The following ", "class ", "Return the "), description="Beginnings that the challenger must go on with."
    )
    num_document_prompts: int = Field(3, ge=0, description="Further prompts: beginnings of held-out documents.")
    sample_tokens: int = Field(40, ge=8, description="Tokens of an answer that is looked at.")
    temperature: float = Field(0.8, gt=0, description="Of the answers.")
    max_repetition: float = Field(
        0.8, gt=0, le=1, description="Share of repeated three-grams above which an answer counts as degenerate."
    )
    max_degenerate: float = Field(
        0.5, ge=0, le=1, description="Share of degenerate answers above which it is rejected."
    )
    force: Literal["none", "promote"] = Field(
        "none", description="Fire drill: promote overrides every check, so that later stages can show that they hold."
    )
    seed: int = Field(0, ge=0, description="Of resamples and answers.")

    @model_validator(mode="after")
    def _check_documents(self) -> Self:
        if self.min_documents > self.max_documents:
            raise ValueError(f"min_documents={self.min_documents} must not be above max_documents={self.max_documents}")
        if not self.prompts and not self.num_document_prompts:
            raise ValueError("prompts and num_document_prompts must not both be empty: some text has to be looked at")
        return self
