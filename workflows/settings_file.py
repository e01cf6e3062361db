"""Settings of a program in a TOML file: read, checked against a model, and refused without telling what it holds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class SettingsError(ValueError):
    """Settings that cannot be used; names the file, the key and the rule. Secrets are not in the message."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason)


def read_settings(path: Path, model: type[M]) -> M:
    """Reads settings.

    Raises:
        SettingsError: The file cannot be read, or a value breaks a rule.
    """
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(path, str(error)) from error
    except ValidationError as error:
        raise SettingsError(path, broken_rules(error)) from None


def broken_rules(error: ValidationError) -> str:
    """The keys and the rules that they break, without the values."""
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_input=False))
