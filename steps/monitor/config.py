"""Settings of the monitor step."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Engine = Literal["numpy", "alibi-cvm", "alibi-mmd"]


class MonitorConfig(BaseModel):
    """How the champion's traffic is watched for drift."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_length: int = Field(
        default=2000,
        ge=20,
        description="Promise: mean number of sessions between two false alarms, all detectors together.",
    )
    window: int = Field(
        default=20, ge=4, le=200, description="Sessions in the sliding window; small finds strong drift sooner."
    )
    min_sessions: int = Field(
        default=200,
        ge=0,
        description="Sessions of the champion's own traffic below which documents fill the reference.",
    )
    max_reference: int = Field(default=1500, ge=20, description="Most sessions in the reference; the newest are taken.")
    num_bootstraps: int = Field(
        default=2000, ge=100, description="Simulated streams behind the shape of the thresholds."
    )
    num_components: int = Field(
        default=32, ge=1, le=384, description="Principal components of the embedding that are kept."
    )
    max_tokens: int = Field(default=64, ge=8, le=512, description="Tokens of a prompt that are embedded.")
    passage_chars: int = Field(
        default=200,
        ge=40,
        description="Length of the passages that documents are cut into where they stand for prompts.",
    )
    engine: Engine = Field(
        default="numpy",
        description="Who watches the embeddings: our own MMD, or alibi-detect in an environment of its own.",
    )
    seed: int = Field(default=0, ge=0, description="Of the bootstrap and the replay.")

    @model_validator(mode="after")
    def _check(self) -> MonitorConfig:
        if self.max_reference < 3 * self.window:
            raise ValueError(f"max_reference={self.max_reference} must be at least 3 windows of window={self.window}")
        if self.run_length < self.window:
            raise ValueError(f"run_length={self.run_length} must not be below window={self.window}")
        return self
