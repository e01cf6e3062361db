"""Why the step stops. All are terminal: the same crawl fails the same way until data or limits change.

ValidateError
|- UnreadableCrawlError    a blob of the crawl is no Parquet file, or lacks a column
`- GateError               too many rows failed
   |- RejectRateError      rejected by any rule
   `- SchemaRateError      breaking the schema, which is a fault of the program that made them
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from steps.common.results import ValidationResult


class ValidateError(Exception):
    """Base of the errors of this step."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(vars(self).values())


class UnreadableCrawlError(ValidateError):
    """A blob that does not hold crawled documents."""

    def __init__(self, sha256: str, reason: str) -> None:
        super().__init__(f"blob {sha256} of the crawl cannot be read as documents: {reason}")
        self.sha256 = sha256
        self.reason = reason


class GateError(ValidateError):
    """Too many rows failed. What was rejected, and why, stands in the blobs of `result.rejects`."""

    def __init__(self, key: str, limit: float, num_failed: int, result: ValidationResult) -> None:
        reasons = ", ".join(f"{rule} {count}" for rule, count in Counter(result.rejected).most_common())
        super().__init__(
            f"{num_failed} of {result.num_in} documents failed, {num_failed / result.num_in:.1%}; "
            f"validate.{key} allows {limit:.1%}. By rule: {reasons}. "
            f"The rejected rows are in {', '.join(f'blob {ref.sha256}' for ref in result.rejects)}"
        )
        self.key = key
        self.limit = limit
        self.num_failed = num_failed
        self.result = result


class RejectRateError(GateError):
    """More rows were rejected than `max_reject_rate` allows."""


class SchemaRateError(GateError):
    """More rows broke the schema than `max_schema_failure_rate` allows."""
