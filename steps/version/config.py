"""Settings of the step."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names of datasets: they become a folder of the storage."""


class VersionConfig(BaseModel):
    """Settings of the step `version`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("corpus", description="Name of the dataset; its log is `datasets/<name>`.")
    heldout_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of documents that no model learns from; fixed by the first version."
    )
    num_buckets: int = Field(
        16,
        gt=0,
        le=4096,
        description="Files that rows are spread over by the hash of their id; fixed by the first version.",
    )
    rows_per_task: int = Field(20_000, gt=0, description="New rows that one merging task is planned for.")
    num_workers: int = Field(2, gt=0, description="Tasks that run at once, of one CPU each.")
    max_attempts: int = Field(5, gt=0, description="Times to merge anew when others commit to the dataset meanwhile.")

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"name={name!r} must be lower-case letters, digits, dot, dash or underscore, at most 64")
        return name
