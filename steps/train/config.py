"""Settings of training."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steps.train.sharding import Strategy


class TrainConfig(BaseModel):
    """How long, on how many workers, and under which name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: str = Field(
        "everloop", pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="Name of the registered model in MLflow."
    )
    experiment: str = Field("everloop", min_length=1, description="MLflow experiment of the runs.")
    tracking_uri: str = Field(
        "", description="MLflow server; empty: MLFLOW_TRACKING_URI, else a file of SQLite beside the storage."
    )
    num_steps: int = Field(200, ge=1, description="Optimizer steps.")
    rows_per_step: int = Field(8, ge=1, description="Packed rows of an optimizer step, over all workers.")
    rows_per_microbatch: int = Field(8, ge=1, description="Packed rows that a worker has in memory at once.")
    num_workers: int = Field(2, ge=1, description="Data-parallel workers.")
    cpus_per_worker: float = Field(1.0, gt=0, description="Logical CPUs that a worker takes.")
    gpus_per_worker: int = Field(0, ge=0, le=1, description="GPUs that a worker takes; with one it speaks NCCL.")
    strategy: Strategy = Field(
        "ddp", description="ddp: each worker has the whole model. fsdp: each has a part (FSDP2), for large models."
    )
    checkpoint_every_steps: int = Field(
        50, ge=1, description="Steps between training states in storage: the most work that a crash costs."
    )
    max_failures: int = Field(3, ge=0, description="Restarts of the workers within one attempt.")
    seed: int = Field(0, ge=0, description="Of first weights and row order.")
    sabotage: Literal["none", "random_weights"] = Field(
        "none",
        description="Fire drill: random_weights throws the trained weights away before the model is saved, so that the "
        "stages after training can show that they stop a bad model.",
    )

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.rows_per_step < self.num_workers:
            raise ValueError(
                f"rows_per_step={self.rows_per_step} must be at least num_workers={self.num_workers}: "
                "each worker takes a share of each step"
            )
        if self.strategy == "fsdp" and self.rows_per_step % self.num_workers:
            raise ValueError(
                f"num_workers={self.num_workers} must divide rows_per_step={self.rows_per_step}: "
                "with strategy 'fsdp' the workers compute each row together"
            )
        return self
