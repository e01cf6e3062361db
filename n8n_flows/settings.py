"""Settings of n8n: one TOML file, kept 0600 because it holds secrets. `settings.example.toml` shows every key."""

from __future__ import annotations

import base64
import binascii
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from n8n_flows.errors import SettingsInvalid

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where n8n listens. On anything but loopback, put TLS in front.

    Attributes:
        host: Address to listen on.
        port: Of the webhooks and the editor.
        runners_port: Of the broker for task runners, always on loopback.
        public_url: How senders reach it, if not by host and port.
        allowed_ranges: CIDR ranges of private addresses that the flows may reach; all others are refused.
        timezone: Of dates in messages.
        encryption_key: Of n8n's credentials; generated, once, if empty. With another one later n8n does not start.
        metrics_key_sha256: SHA-256, in hex, of the key that `/metrics` asks for as a bearer token. Without one there
            are metrics on loopback only, for all who reach it.
    """

    host: str = "127.0.0.1"
    port: int = 5678
    runners_port: int = 5679
    public_url: str = ""
    allowed_ranges: tuple[str, ...] = ("127.0.0.1/32",)
    timezone: str = "Etc/UTC"
    encryption_key: str = field(default="", repr=False)
    metrics_key_sha256: str = ""

    @property
    def has_metrics(self) -> bool:
        """Whether n8n tells numbers at `/metrics`: never to strangers on a network."""
        return bool(self.metrics_key_sha256) or self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The loop's HTTP door.

    Attributes:
        url: Its address.
        api_key: Key of the principal `Service::n8n`.
    """

    url: str = "http://127.0.0.1:8400"
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """How deliveries to n8n are signed.

    Attributes:
        secret: Standard Webhooks secret, `whsec_` and base64 of 24 to 64 bytes.
        old_secret: The one before, while it is being replaced.
        token: If set, deliveries must carry it in the header `x-everloop-token` as well.
    """

    secret: str = field(repr=False)
    old_secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slack:
    """A Slack-compatible incoming webhook.

    Attributes:
        url: Its address, which is a secret.
    """

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """An SMTP server.

    Attributes:
        host: Of the server.
        port: Of the server.
        sender: Address of the sender.
        to: Addresses of the people, separated by commas.
        user: To log in as, if at all.
        password: Of that user.
        tls: TLS from the first byte (port 465).
        starttls: Go over to TLS if the server offers it.
    """

    host: str
    port: int = 25
    sender: str
    to: str
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    starttls: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The people who may use n8n's own pages.

    Attributes:
        owner_email: Who owns the instance.
        owner_password: At least 8 characters, a digit and a capital letter; generated into the state folder if empty.
        form_user: Who may start a run by the form.
        form_password: Of that user; generated into the state folder if empty.
    """

    owner_email: str = "owner@everloop.invalid"
    owner_password: str = field(default="", repr=False)
    form_user: str = "everloop"
    form_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Requests for approval.

    Attributes:
        remind_after_s: An undecided request is told once more after this time. Waits of 65 s and more survive a crash.
    """

    remind_after_s: int = 14_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A PostgreSQL instead of the SQLite file.

    Attributes:
        host: Of the server.
        port: Of the server.
        database: Name of the database.
        user: To log in as.
        password: Of that user.
    """

    host: str
    port: int = 5432
    database: str = "n8n"
    user: str = "n8n"
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about n8n. At least one of `slack` and `mail` is there: nobody is told nothing."""

    state: Path
    door: Door
    webhook: Webhook
    slack: Slack | None = None
    mail: Mail | None = None
    server: Server = Server()
    people: People = People()
    approval: Approval = Approval()
    postgres: Postgres | None = None


_SECTIONS: Mapping[str, type[Any]] = {
    "door": Door,
    "webhook": Webhook,
    "slack": Slack,
    "mail": Mail,
    "server": Server,
    "people": People,
    "approval": Approval,
    "postgres": Postgres,
}


def load_settings(path: Path) -> Settings:
    """Reads settings. A relative `state` counts from the folder of the file.

    Raises:
        SettingsInvalid: It cannot be read, can be read by others, or a value breaks a rule.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsInvalid(path, ["holds secrets and can be read by others; make it 0600"])
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsInvalid(path, [str(error)]) from error
    rules: list[str] = [f"{key}: unknown" for key in table.keys() - _SECTIONS.keys() - {"state"}]
    sections: dict[str, Any] = {
        name: _section(kind, name, table.get(name), rules)
        for name, kind in _SECTIONS.items()
        if name in table or name in ("door", "webhook")
    }
    state = table.get("state", "n8n")
    if not isinstance(state, str):
        rules.append("state: a path")
    if not rules:
        rules.extend(_broken_rules(sections))
    if rules:
        raise SettingsInvalid(path, rules)
    return Settings(state=(path.parent / state).resolve(), **sections)


def _section(kind: type[T], name: str, values: object, rules: list[str]) -> T | None:
    if not isinstance(values, dict):
        rules.append(f"{name}: the section is missing")
        return None
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    before = len(rules)
    rules.extend(f"{name}.{key}: unknown" for key in values.keys() - known.keys())
    given: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            continue
        expected = {"str": str, "int": int, "bool": bool, "tuple[str, ...]": list}[str(known[key].type)]
        if type(value) is not expected:
            rules.append(f"{name}.{key}: a {expected.__name__}")
        given[key] = tuple(value) if isinstance(value, list) else value
    if len(rules) > before:
        return None
    try:
        return kind(**given)
    except TypeError as error:
        rules.append(f"{name}: {str(error).partition('__init__() ')[2]}")
        return None


def _broken_rules(sections: Mapping[str, Any]) -> Iterator[str]:
    webhook: Webhook = sections["webhook"]
    door: Door = sections["door"]
    if "slack" not in sections and "mail" not in sections:
        yield "slack or mail: at least one, or messages would reach nobody"
    if not _is_secret(webhook.secret):
        yield "webhook.secret: whsec_ and base64 of 24 to 64 bytes"
    if webhook.old_secret and not _is_secret(webhook.old_secret):
        yield "webhook.old_secret: whsec_ and base64 of 24 to 64 bytes"
    if urlsplit(door.url).scheme not in ("http", "https") or not urlsplit(door.url).hostname:
        yield f"door.url: an http(s) address, not {door.url!r}"
    if not door.api_key:
        yield "door.api_key: must not be empty"
    slack: Slack | None = sections.get("slack")
    if slack and urlsplit(slack.url).scheme not in ("http", "https"):
        yield "slack.url: an http(s) address"
    approval: Approval = sections.get("approval", Approval())
    if not 65 <= approval.remind_after_s <= 7 * 86_400:
        yield (
            "approval.remind_after_s: 65 (n8n forgets shorter waits in a crash) to 604800, not "
            f"{approval.remind_after_s}"
        )
    server: Server = sections.get("server", Server())
    if not 1 <= server.port <= 65535 or not 1 <= server.runners_port <= 65535 or server.port == server.runners_port:
        yield "server.port, server.runners_port: two different ports"
    if server.metrics_key_sha256 and not re.fullmatch("[0-9a-f]{64}", server.metrics_key_sha256):
        yield "server.metrics_key_sha256: a SHA-256 in 64 hexadecimal digits"


def _is_secret(text: str) -> bool:
    try:
        return 24 <= len(base64.b64decode(text.removeprefix("whsec_"), validate=True)) <= 64
    except (binascii.Error, ValueError):
        return False
