"""Settings of validate: impossible ones are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steps.validate.config import QualityLimits, ValidateConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_reject_rate": 1.5}, "max_reject_rate"),
        ({"languages": ["English"]}, "English"),
        ({"min_words": 50}, "min_words"),
        ({"quality": {"min_wrods": 50}}, "min_wrods"),
        ({"quality": {"min_words": 10, "max_words": 5}}, "max_words=5"),
        ({"rows_per_task": 0}, "rows_per_task"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ValidateConfig.model_validate(settings)


def test_prose_has_every_rule_on() -> None:
    assert all(value is not None for value in QualityLimits.prose().model_dump().values())


def test_settings_survive_json() -> None:
    config = ValidateConfig(quality=QualityLimits.prose())
    assert ValidateConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("model", [ValidateConfig, QualityLimits])
def test_every_setting_is_described(model: type[ValidateConfig | QualityLimits]) -> None:
    assert all(field.description for field in model.model_fields.values())
