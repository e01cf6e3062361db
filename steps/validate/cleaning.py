"""What happens to one batch of crawled documents: Arrow in, Arrow out, no state, no order."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from steps.common.dataset import CLEAN_SCHEMA
from steps.common.results import CLEAN_DOCUMENTS, RAW_DOCUMENTS
from steps.common.text import decode_text, normalise
from steps.validate.config import ValidateConfig
from steps.validate.errors import UnreadableCrawlError
from steps.validate.language import detect
from steps.validate.personal_data import mask
from steps.validate.quality import broken_rule
from steps.validate.schema import schema_failures

DUPLICATE = "duplicate"
"""Rule of rows whose cleaned text another page of the crawl has, too."""

REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("doc_id", "url", "rule", "value", "text")])
"""Rejected rows: what was broken, by which value, and the masked text."""

JUDGED_SCHEMA = pa.schema(
    # Nullable, since a row may be here because something is missing.
    [pa.field(field.name, field.type) for field in CLEAN_SCHEMA]
    + [pa.field("rule", pa.string()), pa.field("value", pa.string()), pa.field("masked", pa.string())]
)
"""Cleaned rows with the judgement on them: `rule` is empty for those accepted; `masked` counts as JSON."""


def clean(raw: pa.Table, config: ValidateConfig) -> pa.Table:
    """Normalises, judges and masks documents. Every row of `raw` comes out once, in order, judged.

    Args:
        raw: Columns as in `RAW_DOCUMENTS`.
        config: The step's settings.

    Returns:
        Rows of `JUDGED_SCHEMA`.
    """
    # Text goes through bytes: Arrow does not vouch for UTF-8, and one bad page must not stop a crawl.
    texts, titles = (raw[name].cast(pa.binary()).to_pylist() for name in ("text", "title"))
    rest = raw.select(["doc_id", "url", "fetched_at"]).to_pylist()
    rows = [
        _clean_row(row, decode_text(title), decode_text(text), config)
        for row, title, text in zip(rest, titles, texts, strict=True)
    ]
    judged = pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)
    return _check_schema(judged)


def _clean_row(row: dict[str, Any], title: str, text: str, config: ValidateConfig) -> dict[str, Any]:
    text, title = normalise(text), normalise(title)
    language = detect(text, config.language_max_chars)
    rule, value = _judge(text, language, config)
    masked: dict[str, int] = {}
    if config.mask_personal_data:
        # Rejected rows are kept too, so they are masked too.
        text, found = mask(text)
        title, found_in_title = mask(title)
        masked = dict(sorted((found + found_in_title).items()))
    return {
        **row,
        "title": title,
        "text": text,
        "language": language,
        "num_chars": len(text),
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "rule": rule,
        "value": value,
        "masked": json.dumps(masked),
    }


def _judge(text: str, language: str, config: ValidateConfig) -> tuple[str, str]:
    if config.languages and language not in config.languages:
        return "language", language
    broken = broken_rule(text, language, config.quality)
    return ("", "") if broken is None else (broken.rule, f"{broken.value:.6g}")


def _check_schema(judged: pa.Table) -> pa.Table:
    rules, values = judged["rule"].to_pylist(), judged["value"].to_pylist()
    accepted = [row for row, rule in enumerate(rules) if not rule]
    documents = judged.take(pa.array(accepted, pa.int64())).select(list(CLEAN_DOCUMENTS))
    for failure in schema_failures(documents) if accepted else []:
        row = accepted[failure.row]
        rules[row], values[row] = failure.check, failure.value
    return _with_judgement(judged, rules, values)


def mark_duplicates(judged: pa.Table) -> pa.Table:
    """Rejects all but one of the accepted rows with equal text, all of which must be here.

    The lowest URL stays: it depends on nothing but the pages, so the next crawl of the same pages keeps the same one.

    Returns:
        The rows sorted by `doc_id`, then URL and time.
    """
    judged = judged.sort_by([(name, "ascending") for name in ("doc_id", "url", "fetched_at", "text_sha256")])
    rules, values = judged["rule"].to_pylist(), judged["value"].to_pylist()
    kept: dict[str, tuple[str, int]] = {}
    for row, (digest, url, rule) in enumerate(
        zip(judged["text_sha256"].to_pylist(), judged["url"].to_pylist(), rules.copy(), strict=True)
    ):
        if rule:
            continue
        rival = kept.get(digest)
        if rival is None or url < rival[0]:
            kept[digest] = (url, row)
    keepers = {row for _, row in kept.values()}
    for row, digest in enumerate(judged["text_sha256"].to_pylist()):
        if not rules[row] and row not in keepers:
            rules[row], values[row] = DUPLICATE, kept[digest][0]
    return _with_judgement(judged, rules, values)


def accepted_rows(judged: pa.Table) -> pa.Table:
    """Returns the accepted rows as `CLEAN_SCHEMA`."""
    return judged.filter(pc.equal(judged["rule"], "")).select(CLEAN_SCHEMA.names).cast(CLEAN_SCHEMA)


def rejected_rows(judged: pa.Table) -> pa.Table:
    """Returns the rejected rows as `REJECT_SCHEMA`."""
    return judged.filter(pc.not_equal(judged["rule"], "")).select(REJECT_SCHEMA.names)


def check_columns(sha256: str, table: pa.Table) -> pa.Table:
    """Returns the columns of `RAW_DOCUMENTS`.

    Raises:
        UnreadableCrawlError: One is missing.
    """
    missing = [name for name in RAW_DOCUMENTS if name not in table.schema.names]
    if missing:
        raise UnreadableCrawlError(sha256, f"no column {', '.join(missing)}")
    return table.select(list(RAW_DOCUMENTS))


def _with_judgement(judged: pa.Table, rules: list[str], values: list[str]) -> pa.Table:
    for name, column in (("rule", rules), ("value", values)):
        judged = judged.set_column(judged.schema.get_field_index(name), name, pa.array(column, pa.string()))
    return judged
