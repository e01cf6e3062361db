"""The services' configuration: `services.toml` beside this file, and a file that changes some of it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workflows.services.errors import ServicesConfigError
from workflows.settings_file import broken_rules

DEFAULTS = Path(__file__).with_name("services.toml")
HOST = "127.0.0.1"
_Port = Field(ge=1, le=65535)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ports(_Section):
    """One port a service, all of them on loopback."""

    minio: int = _Port
    minio_console: int = _Port
    mlflow: int = _Port
    prometheus: int = _Port
    alertmanager: int = _Port
    triggers: int = _Port
    reconciler: int = _Port
    airflow: int = _Port
    n8n: int = _Port
    endpoint: int = _Port

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        seen: dict[int, str] = {}
        for name, port in self.model_dump().items():
            if port in seen:
                raise ValueError(f"{name} and {seen[port]} have the same port {port}")
            seen[port] = name
        return self


class LoopSettings(_Section):
    """What the services serve."""

    storage: str
    alias: str = Field(min_length=1, max_length=64)
    recipe: str
    overrides: tuple[str, ...]


class MinioSettings(_Section):
    """The object storage."""

    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    prefix: str = Field(pattern=r"^[A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)*$")
    incoming: str = Field(pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")
    keep_deleted_days: int = Field(ge=1)


class PrometheusSettings(_Section):
    """What is measured, how often, and how long it is kept."""

    scrape_interval_s: float = Field(gt=0)
    evaluation_interval_s: float = Field(gt=0)
    retention: str = Field(pattern=r"^\d+(ms|s|m|h|d|w|y)$")
    rules: tuple[Path, ...]


class AlertmanagerSettings(_Section):
    """When alerts are told: the first of a group, more of the group, the same again."""

    group_wait_s: float = Field(ge=0)
    group_interval_s: float = Field(gt=0)
    repeat_interval_s: float = Field(gt=0)


class ReconcilerSettings(_Section):
    """The hands-off part."""

    interval_s: float = Field(gt=0)


class AirflowSettings(_Section):
    """When Airflow starts what; five-field cron expressions, UTC."""

    cron: str = Field(pattern=r"^\S+( \S+){4}$")
    maintenance_cron: str = Field(pattern=r"^\S+( \S+){4}$")
    poll_s: float = Field(gt=0)


class WatchSettings(_Section):
    """How soon a service that has died is started again, and how long its log may grow."""

    interval_s: float = Field(gt=0)
    first_wait_s: float = Field(ge=0)
    longest_wait_s: float = Field(gt=0)
    forgive_s: float = Field(gt=0)
    max_log_bytes: int = Field(ge=64 * 1024)


class PeopleSettings(_Section):
    """How people are told, by n8n and by Alertmanager: a Slack-compatible webhook, a mail server (keys as in
    `n8n_flows/settings.example.toml`), or both.
    """

    slack_url: str = Field(pattern=r"^(https?://\S+)?$")
    mail: Mapping[str, str | int | bool]


class Waits(_Section):
    """How long a start and a stop may take."""

    healthy_s: float = Field(gt=0)
    stop_s: float = Field(gt=0)


class ServicesConfig(_Section):
    """All of the configuration; a field of `services.toml` each."""

    ports: Ports
    loop: LoopSettings
    minio: MinioSettings
    prometheus: PrometheusSettings
    alertmanager: AlertmanagerSettings
    reconciler: ReconcilerSettings
    airflow: AirflowSettings
    watch: WatchSettings
    people: PeopleSettings
    waits: Waits


def load_config(changes: Path | None = None) -> ServicesConfig:
    """Reads the defaults and what a file changes of them.

    Raises:
        ServicesConfigError: A file cannot be read, or a value breaks a rule.
    """
    document = _read(DEFAULTS)
    if changes is not None:
        document = _merged(document, _read(changes))
    try:
        return ServicesConfig.model_validate(document)
    except ValidationError as error:
        raise ServicesConfigError(str(changes or DEFAULTS), broken_rules(error)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ServicesConfigError(str(path), str(error)) from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both_tables else value
    return result
