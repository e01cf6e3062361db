"""Who is told what: the receivers, from a TOML file.

public_url = "https://everloop.example.org"

[[notify]]
name = "chat"
url = "https://n8n.example.org/webhook/everloop-notify"
secret = "whsec_..."
events = ["*", "!approval.requested"]
min_severity = "info"
headers = { "x-everloop-token" = "..." }
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from workflows.access import WebhookSecret
from workflows.log import SEVERITIES, Notification, Severity
from workflows.settings_file import read_settings

_SIGNED = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature", "content-type", "content-length", "host"})


class Receiver(BaseModel):
    """One address that is told. Its URL, secret and headers never reach a record or a message."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.:-]{0,100}$",
        description="Names it in records and metrics; by default made from url.",
    )
    url: SecretStr = Field(description="Where notifications are posted, http or https; redirects are not followed.")
    secret: SecretStr = Field(description="Standard Webhooks secret that signs them, `whsec_...`.")
    events: tuple[str, ...] = Field(
        ("*",), min_length=1, description="Names or patterns of events; one with `!` in front takes them out again."
    )
    min_severity: Severity = Field("info", description="The least urgent that is sent: info, warning or critical.")
    headers: Mapping[str, SecretStr] = Field(
        default_factory=dict, description="Further headers, for receivers that also ask for a token."
    )
    timeout_s: float = Field(30.0, gt=0, le=60, description="Longest time for one delivery.")

    @field_validator("url")
    @classmethod
    def _is_web_address(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("http:// or https:// with a host and without user and password")
        return value

    @field_validator("secret")
    @classmethod
    def _is_strong(cls, value: SecretStr) -> SecretStr:
        WebhookSecret.parse(value.get_secret_value())
        return value

    @field_validator("headers")
    @classmethod
    def _are_plain(cls, value: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for name, content in value.items():
            if name.lower() in _SIGNED or not name.replace("-", "").isalnum():
                raise ValueError(f"{name!r}: letters, digits and -, and none that every delivery has")
            if not content.get_secret_value().isprintable():
                raise ValueError(f"{name}: one line")
        return value

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        if isinstance(data, Mapping) and not data.get("name") and isinstance(data.get("url"), str):
            host = urlsplit(data["url"]).netloc.rpartition("@")[2] or "receiver"
            return {**data, "name": f"{host}-{hashlib.sha256(data['url'].encode()).hexdigest()[:6]}"}
        return data

    @property
    def key(self) -> WebhookSecret:
        """What signs its deliveries."""
        return WebhookSecret.parse(self.secret.get_secret_value())

    @property
    def secrets(self) -> Iterator[str]:
        """What must not appear in what is written down about it."""
        yield self.url.get_secret_value()
        yield from (part for part in urlsplit(self.url.get_secret_value())[2:4] if part.strip("/"))
        yield self.secret.get_secret_value()
        yield from (content.get_secret_value() for content in self.headers.values())

    def wants(self, notification: Notification) -> bool:
        """Whether it is to be told."""
        if SEVERITIES.index(notification.severity) < SEVERITIES.index(self.min_severity):
            return False
        wanted = [pattern for pattern in self.events if not pattern.startswith("!")]
        unwanted = [pattern[1:] for pattern in self.events if pattern.startswith("!")]
        taken = not wanted or any(fnmatchcase(notification.event, pattern) for pattern in wanted)
        return taken and not any(fnmatchcase(notification.event, pattern) for pattern in unwanted)


class OutboxSettings(BaseModel):
    """What the reconciler is told beside its storage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_url: str = Field(
        "http://127.0.0.1:8400",
        pattern=r"^https?://[^\s?#]+$",
        description="How people reach the HTTP door; links in messages begin with it.",
    )
    principals: Path | None = Field(
        None,
        description="The team's directory of principals (TOML): whose an alias is, whether it needs four eyes.",
    )
    notify: tuple[Receiver, ...] = Field((), description="The receivers of notifications.")

    @field_validator("notify")
    @classmethod
    def _differ(cls, value: tuple[Receiver, ...]) -> tuple[Receiver, ...]:
        names = [receiver.name for receiver in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two receivers are named {twice[0]!r}")
        return value


def load_outbox_settings(path: Path) -> OutboxSettings:
    """Reads settings from a TOML file; a relative path in it counts from its folder.

    Raises:
        SettingsError: It cannot be read, or a value breaks a rule. Secrets are not in the message.
    """
    found = read_settings(path, OutboxSettings)
    if found.principals is None:
        return found
    return found.model_copy(update={"principals": path.parent / found.principals})
