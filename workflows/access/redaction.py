"""Keeps known secrets out of logs and records."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
# Shorter values would match ordinary words.
_MIN_LENGTH = 8


class Redactor:
    """Replaces known secret values in text, also where they stand percent-encoded or as base64.

    Args:
        secrets: The values. Those under 8 characters are left out: they would match ordinary words.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= _MIN_LENGTH:
                forms |= {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}
        # Longest first: a secret that holds another must not leave its rest behind.
        self._forms = sorted(forms, key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without the secrets."""
        for form in self._forms:
            text = text.replace(form, REDACTED)
        return text

    def value(self, value: Any) -> Any:
        """The JSON value without the secrets, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(entry) for entry in value]
        return value

    def __repr__(self) -> str:
        return f"Redactor({len(self._forms)} forms)"


class RedactingFilter(logging.Filter):
    """Put on a handler (a logger's own filters see only what is logged there), takes secrets out of messages and
    tracebacks."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> logging.LogRecord:
        """Returns a copy, so that other handlers see the record as it was."""
        clean = logging.makeLogRecord(record.__dict__)
        try:
            clean.msg = self._redactor.text(record.getMessage())
        except Exception:  # noqa: BLE001 - a message that cannot be formatted is told by its template alone
            clean.msg = self._redactor.text(str(record.msg))
        clean.args = None
        if record.exc_info and record.exc_info[0] is not None:
            clean.exc_text = self._redactor.text("".join(traceback.format_exception(*record.exc_info)).rstrip())
        elif record.exc_text:
            clean.exc_text = self._redactor.text(record.exc_text)
        if record.stack_info:
            clean.stack_info = self._redactor.text(record.stack_info)
        return clean
