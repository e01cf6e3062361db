"""Keeps known secrets out of logs and records."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

REDACTED = "[redacted]"
# Shorter values would match ordinary words.
_MIN_LENGTH = 8
# Words of a variable's name that say that its value is a secret. A path to one is none.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:SECRET|SECRETS|TOKEN|PASSWORD|PASSWD|API_KEY|SECRET_KEY|SESSION_TOKEN|CREDENTIALS)(?:_|$)"
)
_NO_SECRET_NAME = re.compile(r"(?:_|^)(?:PATH|FILE|URI|URL|MODE|DIR)$")
_PASSWORD_IN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@")


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


def environment_secrets(environment: Mapping[str, str]) -> Iterator[str]:
    """Values of variables that are named like secrets (`..._TOKEN`, `..._PASSWORD`), and passwords in URLs."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name.upper()) and not _NO_SECRET_NAME.search(name.upper()):
            yield value
        yield from passwords_in(value)


def passwords_in(text: str) -> Iterator[str]:
    """Passwords that stand in URLs, as written and as meant."""
    for found in _PASSWORD_IN_URL.finditer(text):
        yield found[1]
        yield unquote(found[1])
