from __future__ import annotations

import base64
import io
import logging
from urllib.parse import quote

import pytest

from workflows.log.redaction import RedactingFormatter, Redactor, environment_secrets, redact_handlers

SECRET = "canary/secret+8f3a"


@pytest.fixture
def logged() -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    redact_handlers(Redactor([SECRET]), logger)
    return logger, stream


def test_messages_arguments_and_tracebacks_lose_the_secret(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = logged
    logger.warning("key is " + SECRET)
    logger.warning("key is %s in %r", SECRET, {"a": [SECRET]})
    try:
        int(f"bad key {SECRET}")
    except ValueError:
        logger.exception("failed")
    logger.warning("with a stack", stack_info=True)
    text = stream.getvalue()
    assert SECRET not in text
    assert text.count("[redacted]") >= 4
    assert "ValueError: invalid literal for int() with base 10: 'bad key [redacted]'" in text


@pytest.mark.parametrize("form", [quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()])
def test_encoded_forms_are_found_too(form: str) -> None:
    assert Redactor([SECRET]).text(f"x={form};") == "x=[redacted];"


def test_values_are_searched_through(  # keys as well
) -> None:
    value = {"a": [SECRET, 1, None, (SECRET,)], SECRET: True}
    assert Redactor([SECRET]).value(value) == {"a": ["[redacted]", 1, None, ["[redacted]"]], "[redacted]": True}


def test_a_secret_within_another_leaves_no_rest() -> None:
    assert Redactor(["long-secret", "long-secret-with-more"]).text("long-secret-with-more") == "[redacted]"


def test_short_values_are_left_alone() -> None:
    assert Redactor(["a", ""]).text("a banana") == "a banana"


def test_the_inner_format_is_kept() -> None:
    formatter = RedactingFormatter(Redactor([SECRET]), logging.Formatter("%(levelname)s|%(message)s"))
    record = logging.LogRecord("n", logging.INFO, "p", 1, "m %s", (SECRET,), None)
    assert formatter.format(record) == "INFO|m [redacted]"
    assert SECRET not in repr(Redactor([SECRET]))


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI", ["wJalrXUtnFEMI"]),
        ("AWS_SESSION_TOKEN", "session-1", ["session-1"]),
        ("EVERLOOP_API_KEY", "elk_1234", ["elk_1234"]),
        ("mlflow_tracking_password", "hush-hush", ["hush-hush"]),
        ("DATABASE_URL", "postgresql://me:p%40ss-word@db/x", ["p%40ss-word", "p@ss-word"]),
        ("RAY_AUTH_TOKEN_PATH", "/run/token", []),
        ("RAY_AUTH_MODE", "token", []),
        ("TOKENIZERS_PARALLELISM", "false", []),
        ("AWS_ACCESS_KEY_ID", "AKIA1234", []),
        ("HOME", "http://example.com:8080/a@b", []),
    ],
)
def test_secrets_are_known_by_the_names_of_their_variables(name: str, value: str, found: list[str]) -> None:
    assert list(environment_secrets({name: value})) == found
