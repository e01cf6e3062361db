"""Settings of the sweep."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steps.common.language_model import Hyperparameters


class Range(BaseModel):
    """Values that a hyperparameter may take, both ends included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(description="Least value.")
    high: float = Field(description="Greatest value; equal to low, the parameter is not searched.")
    log: bool = Field(False, description="Whether orders of magnitude are searched rather than differences.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low={self.low} must not be above high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low} must be above 0 where log=true")
        return self

    def including(self, value: float) -> Range:
        """The range, widened where needed to hold a value."""
        return self.model_copy(update={"low": min(self.low, value), "high": max(self.high, value)})


class TuneConfig(BaseModel):
    """How many trials, how long, and where to look."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_trials: int = Field(8, ge=1, le=10_000, description="Trials of the sweep, the champion's parameters included.")
    max_steps: int = Field(60, ge=1, description="Optimizer steps of a trial that is not stopped early.")
    grace_steps: int = Field(15, ge=1, description="Steps before ASHA may stop a trial: its first rung.")
    reduction_factor: float = Field(
        2.0, gt=1, description="ASHA keeps the best 1/n of a rung; rungs lie a factor n apart."
    )
    rows_per_step: int = Field(8, ge=1, description="Packed rows of an optimizer step.")
    rows_per_microbatch: int = Field(8, ge=1, description="Packed rows that are in memory at once.")
    validation_rows: int = Field(
        32, ge=1, description="Packed rows of the training split kept from the trials to judge them; a quarter at most."
    )
    max_concurrent_trials: int = Field(2, ge=1, description="Trials at the same time, one CPU each.")
    gpus_per_trial: int = Field(0, ge=0, le=1, description="GPUs that a trial takes.")
    max_failures: int = Field(2, ge=0, description="Restarts of a trial whose worker died.")
    seed: int = Field(0, ge=0, description="Of first weights, row order and proposals.")
    learning_rate: Range = Field(
        Range(low=1e-3, high=1e-2, log=True), description="Peak of the learning rate schedule."
    )
    warmup_ratio: Range = Field(Range(low=0.02, high=0.2), description="Part of the steps in which the rate rises.")
    weight_decay: Range = Field(Range(low=0.01, high=0.3, log=True), description="Decay of the weight matrices.")

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.grace_steps > self.max_steps:
            raise ValueError(f"grace_steps={self.grace_steps} must not be above max_steps={self.max_steps}")
        return self

    @property
    def space(self) -> dict[str, Range]:
        """The range of each hyperparameter by name."""
        return {name: getattr(self, name) for name in Hyperparameters.names()}
