"""The schema of accepted documents, checked by pandera on Arrow: no detour through pandas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class SchemaFailure:
    """A row that breaks the schema: where it stands, the check it breaks, and the value by which it does."""

    row: int
    check: str
    value: str


@cache
def document_model() -> Any:
    """Returns the pandera model of accepted documents. Imports pandera, which takes half a second."""
    import pandera.pyarrow as pandera

    class Document(pandera.DataFrameModel):  # type: ignore[misc] # pandera is not followed
        """One accepted document; columns as in `CLEAN_DOCUMENTS`, none may be null."""

        doc_id: str = pandera.Field(str_matches="^[0-9a-f]{64}$")
        url: str = pandera.Field(str_matches="^[a-z][a-z0-9+.-]*:")
        title: str
        text: str = pandera.Field(str_length={"min_value": 1})
        language: str = pandera.Field(str_matches="^[a-z]{2,3}$")
        num_chars: int = pandera.Field(gt=0)
        fetched_at: float = pandera.Field(gt=0, lt=1e11)
        text_sha256: str = pandera.Field(str_matches="^[0-9a-f]{64}$")

        class Config:
            strict = True

    return Document


def schema_failures(table: pa.Table) -> list[SchemaFailure]:
    """Returns the rows that break the schema, each once, in row order.

    Raises:
        pandera.errors.SchemaErrors: The table itself is wrong: a column missing, or of another type.
    """
    from pandera.errors import SchemaErrors

    try:
        document_model().validate(table, lazy=True)
    except SchemaErrors as errors:
        found: dict[int, SchemaFailure] = {}
        for error in errors.schema_errors:
            column, check = getattr(error.schema, "name", None), getattr(error.check, "name", None) or str(error.check)
            if column not in table.schema.names or str(error.reason_code.value).startswith("wrong_"):
                raise
            for row in _failing_rows(table[column], error.failure_cases):
                found.setdefault(row, SchemaFailure(row, f"schema:{column}:{check}", str(table[column][row].as_py())))
        return [found[row] for row in sorted(found)]
    return []


def _failing_rows(column: pa.ChunkedArray, failure_cases: pa.Table) -> list[int]:
    # pandera names the values that failed, not their rows; equal values fail alike, so the rows follow from the values.
    values = failure_cases.column(0).combine_chunks().cast(column.type)
    failing = pc.is_in(column, value_set=values)
    if pa.types.is_floating(column.type):
        failing = pc.or_(failing, pc.is_nan(column))
    return [row for row, fails in enumerate(pc.fill_null(failing, True).to_pylist()) if fails]
