"""Commits accepted documents as a version of a dataset: see `steps.version.step`."""

from steps.version.config import VersionConfig
from steps.version.errors import (
    ContendedDatasetError,
    EmptyDatasetError,
    FixedSettingError,
    InvalidTagError,
    UnknownVersionError,
    VersionError,
)
from steps.version.manifest import open_dataset
from steps.version.step import run

__all__ = [
    "VersionConfig",
    "run",
    "open_dataset",
    "ContendedDatasetError",
    "EmptyDatasetError",
    "FixedSettingError",
    "InvalidTagError",
    "UnknownVersionError",
    "VersionError",
]
