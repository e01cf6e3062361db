"""Cleans crawled documents: see `steps.validate.step`."""

from steps.validate.config import QualityLimits, ValidateConfig
from steps.validate.errors import GateError, RejectRateError, SchemaRateError, UnreadableCrawlError, ValidateError
from steps.validate.step import run

__all__ = [
    "QualityLimits",
    "ValidateConfig",
    "run",
    "GateError",
    "RejectRateError",
    "SchemaRateError",
    "UnreadableCrawlError",
    "ValidateError",
]
