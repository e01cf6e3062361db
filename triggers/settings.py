"""Settings of the HTTP door."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from workflows.access import WebhookSecret
from workflows.configs import RECIPES, load
from workflows.settings_file import read_settings


class AliasSettings(BaseModel):
    """What the signals of an alias start. Its team and its protection stand in the directory of principals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(
        "", description="What a signal starts before the first release; after it, what made the champion."
    )
    overrides: tuple[str, ...] = Field((), description="Fields of that recipe, `section.key=value` each.")

    @field_validator("recipe")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value and value not in RECIPES:
            raise ValueError(f"recipe {value!r} is unknown; there are {', '.join(RECIPES)}")
        return value

    @model_validator(mode="after")
    def _are_possible(self) -> Self:
        if self.overrides:
            load(self.recipe or None, None, self.overrides)
        return self


class Settings(BaseModel):
    """Everything about the door that is not about the loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: str = Field(description="Storage URI of the loop.")
    host: str = Field("127.0.0.1", description="Address to listen on. Put TLS in front of anything but loopback.")
    port: int = Field(8400, ge=1, le=65535, description="Port to listen on.")
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/]+)?$",
        description="How people reach the door, for example https://loop.example.org.",
    )
    state: Path | None = Field(
        None,
        description="Folder for keys and logs of drivers; by default `door` in the state folder of the storage.",
    )
    aliases: Mapping[str, AliasSettings] = Field(default_factory=dict, description="What signals start, by alias.")
    principals: Path | None = Field(
        None,
        description="The team's directory of principals (TOML). Without one, the owner of the storage is the only one.",
    )
    session_key: SecretStr | None = Field(
        None,
        min_length=32,
        description="Secret of the page's sessions: doors that share it know each other's. By default one in `state`.",
    )
    policies: tuple[Path, ...] = Field((), description="Folders of policies; by default those of the project.")
    webhook_secrets: Mapping[str, tuple[SecretStr, ...]] = Field(
        default_factory=dict,
        description="Standard Webhooks secrets by sender (`Service::n8n`); in a rotation the old one stands second.",
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, description="Larger requests are refused with 413 before they are read."
    )
    reload_policies_s: float = Field(5.0, gt=0, description="How often changed policy files are looked for.")
    follow_poll_s: float = Field(1.0, gt=0, description="How often the event stream of a run looks at its journal.")
    follow_max_s: float = Field(
        3600.0, gt=0, description="An event stream ends after this time; clients connect again."
    )

    @field_validator("webhook_secrets")
    @classmethod
    def _are_strong(cls, value: Mapping[str, tuple[SecretStr, ...]]) -> Mapping[str, tuple[SecretStr, ...]]:
        for sender, secrets in value.items():
            if not secrets:
                raise ValueError(f"webhook_secrets.{sender}: at least one secret")
            for secret in secrets:
                WebhookSecret.parse(secret.get_secret_value())
        return value


def load_settings(path: Path) -> Settings:
    """Reads settings from a TOML file.

    Raises:
        SettingsError: It cannot be read, or a value breaks a rule. Secrets are not in the message.
    """
    return read_settings(path, Settings)
