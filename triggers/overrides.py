"""Overrides as they come over HTTP: dotted names with JSON values, checked before a config is made of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from triggers.loop_api import InvalidRequest
from workflows.configs import RECIPES, ConfigError, PipelineConfig, changed

MAX_DEPTH = 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){1,7}")


def recipe_config(recipe: str, overrides: Mapping[str, Any]) -> PipelineConfig:
    """A recipe with other values in some fields.

    Raises:
        InvalidRequest: An unknown recipe or field, or an impossible value.
    """
    if recipe not in RECIPES:
        raise InvalidRequest(f"recipe {recipe!r} is unknown; there are {', '.join(RECIPES)}")
    return overridden(RECIPES[recipe](), overrides)


def overridden(config: PipelineConfig, overrides: Mapping[str, Any]) -> PipelineConfig:
    """A config with other values in some fields.

    Raises:
        InvalidRequest: An unknown field, or an impossible value.
    """
    lines = []
    for name, value in overrides.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"override {name[:100]!r} must be named like section.key")
        if _depth(value) > MAX_DEPTH:
            raise InvalidRequest(f"override {name!r} is nested more than {MAX_DEPTH} deep")
        try:
            lines.append(f"{name}={json.dumps(value, allow_nan=False)}")
        except ValueError as error:
            raise InvalidRequest(f"override {name!r} is no JSON value: {error}") from error
    try:
        return changed(config, overrides=lines)
    except ConfigError as error:
        raise InvalidRequest(str(error)) from error


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
