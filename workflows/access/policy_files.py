"""Reads Cedar policies and their schema, and names file and line of what is wrong.

cedarpy reports what is wrong but not where. Policies and declarations end with a semicolon outside of strings and
comments, so each one is cut out and parsed alone: the one that fails has a line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cedarpy

from workflows.access.errors import PolicyError

SCHEMA_NAME = "everloop.cedarschema"
TEAM_POLICIES = Path(__file__).parent / "policies"
LOCAL_POLICIES = TEAM_POLICIES / "local"


@dataclass(frozen=True, slots=True)
class PolicySet:
    """A set that was parsed and validated.

    Attributes:
        policies: Handle of the parsed policies.
        schema: Handle of the parsed schema.
        origins: By `@id`, where each policy stands, as `file:line`.
        digest: SHA-256 over all texts: equal digests, equal rules.
    """

    policies: Any
    schema: Any
    origins: Mapping[str, str]
    digest: str


@dataclass(frozen=True, slots=True)
class _Statement:
    path: Path
    line: int
    text: str


def load_policies(folders: Sequence[Path], schema_path: Path | None = None) -> PolicySet:
    """Reads all `*.cedar` files that stand directly in the folders, and checks them against the schema.

    Args:
        folders: Read in this order, files by name.
        schema_path: By default `everloop.cedarschema` in the first folder.

    Raises:
        PolicyError: A file that is missing, empty, unreadable, malformed or at odds with the schema; a policy without
            an `@id`, or with one that is taken. The message names file and line.
    """
    schema_path = schema_path or folders[0] / SCHEMA_NAME
    schema_text = _read(schema_path)
    schema = _parse_schema(schema_path, schema_text)
    statements: list[_Statement] = []
    for folder in folders:
        paths = sorted(folder.glob("*.cedar"))
        if not paths:
            raise PolicyError(folder, 0, "no *.cedar file here; a set without policies would deny everything")
        for path in paths:
            statements += _statements(path, _read(path))
    origins = {_checked(statement, schema): statement for statement in _unique(statements)}
    text = "\n".join(statement.text for statement in statements)
    return PolicySet(
        policies=cedarpy.PolicySet.from_str(text),
        schema=schema,
        origins={name: f"{statement.path.name}:{statement.line}" for name, statement in origins.items()},
        digest=hashlib.sha256(f"{schema_text}\0{text}".encode()).hexdigest(),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(path, 0, f"cannot be read ({error})") from error


def _statements(path: Path, text: str) -> Iterator[_Statement]:
    """Cuts at each semicolon outside of strings and comments. A rest that holds more than comments is a statement
    too."""
    start, position, in_string = 0, 0, False
    while position < len(text):
        character = text[position]
        if in_string:
            if character == "\\":
                position += 1
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif text.startswith("//", position):
            end = text.find("\n", position)
            position = len(text) if end < 0 else end
        elif character == ";":
            yield _cut(path, text, start, position + 1)
            start = position + 1
        position += 1
    rest = _cut(path, text, start, len(text))
    if rest.text:
        yield rest


_SPACE_AND_COMMENTS = re.compile(r"(?:\s|//[^\n]*)*")


def _cut(path: Path, text: str, start: int, end: int) -> _Statement:
    skipped = _SPACE_AND_COMMENTS.match(text, start, end)
    begin = skipped.end() if skipped else start
    return _Statement(path, text.count("\n", 0, begin) + 1, text[begin:end])


_ID = re.compile(r'@id\(\s*"([^"\\]+)"\s*\)')


def _unique(statements: Sequence[_Statement]) -> Iterator[_Statement]:
    seen: dict[str, _Statement] = {}
    for statement in statements:
        named = _ID.match(statement.text)
        if named is None:
            raise PolicyError(statement.path, statement.line, 'a policy starts with @id("..."): the audit log names it')
        first = seen.setdefault(named[1], statement)
        if first is not statement:
            raise PolicyError(statement.path, statement.line, f"@id {named[1]!r} is taken by {first.path}:{first.line}")
        yield statement


def _checked(statement: _Statement, schema: Any) -> str:
    """Parses and validates one policy; returns its `@id`."""
    try:
        parsed = cedarpy.PolicySet.from_str(statement.text)
    except ValueError as error:
        raise PolicyError(statement.path, statement.line, str(error)) from error
    named = _ID.match(statement.text)
    if len(parsed) != 1 or parsed.templates() or named is None:
        raise PolicyError(statement.path, statement.line, "expected exactly one policy, and no template")
    result = cedarpy.validate_policies(statement.text, schema)
    if not result.validation_passed:
        raise PolicyError(statement.path, statement.line, "; ".join(error.error for error in result.errors))
    return named[1]


def _parse_schema(path: Path, text: str) -> Any:
    try:
        return cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise PolicyError(path, _schema_line(path, text, str(error)), str(error)) from error


def _schema_line(path: Path, text: str, reason: str) -> int:
    """The declaration that is malformed by itself, else the first that holds the name that the reason ends with, else
    line 1."""
    statements = list(_statements(path, text))
    for statement in statements:
        try:
            cedarpy.Schema.from_str(statement.text)
        except ValueError as error:
            if str(error).startswith("error parsing schema"):
                return statement.line
    words = re.findall(r"\w+", reason)
    for statement in statements:
        if words and re.search(rf"\b{words[-1]}\b", statement.text):
            return statement.line
    return 1
