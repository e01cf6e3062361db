"""Keeps known secrets out of logs and records."""

from __future__ import annotations

import base64
import logging
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


class RedactingFormatter(logging.Formatter):
    """Formats as another formatter does, and takes secrets out of the result: message, arguments, traceback and all.

    A formatter and not a filter: until Python 3.12 a filter can only change the record that other handlers see too.
    """

    def __init__(self, redactor: Redactor, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._redactor = redactor
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The text of the record without the secrets."""
        return self._redactor.text(self._inner.format(record))


def redact_handlers(redactor: Redactor, logger: logging.Logger) -> None:
    """Wraps the formatters of a logger's handlers. Call it once, after logging is set up."""
    for handler in logger.handlers:
        handler.setFormatter(RedactingFormatter(redactor, handler.formatter))
