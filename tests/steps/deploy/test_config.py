from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from steps.deploy.config import DeployConfig, ServingConfig


@pytest.mark.parametrize("config", [DeployConfig, ServingConfig])
def test_every_field_is_described(config: type[BaseModel]) -> None:
    assert all(field.description for field in config.model_fields.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": ()}, "weights must not be empty"),
        ({"weights": (0.5, 0.1)}, "must rise"),
        ({"weights": (0.1, 0.1)}, "must rise"),
        ({"weights": (0.0,)}, r"must all lie in \(0, 1\]"),
        ({"look_every_s": 10, "timeout_s": 5}, "look_every_s=10 must not exceed timeout_s=5"),
        ({"alias": "a--b"}, "alias"),
        ({"alias": "../x"}, "alias"),
        ({"speed": 1}, "speed"),
        ({"serving": {"engine": "magic"}}, "engine"),
    ],
)
def test_impossible_values_are_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DeployConfig(**changes)


def test_serving_settings_travel_as_json() -> None:
    serving = ServingConfig(max_batch=3, port=8123)
    assert ServingConfig(**serving.model_dump(mode="json")) == serving
