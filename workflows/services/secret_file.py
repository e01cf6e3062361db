"""The services' secrets: made once, kept in one file that only its owner may read.

API keys say who asks at the HTTP door, webhook secrets sign deliveries, MinIO has its root and the loop's own user. A
file of an older version gets the secrets that it lacks; what stands in it stays.
"""

from __future__ import annotations

import base64
import fcntl
import getpass
import json
import os
import secrets
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workflows.access import new_api_key
from workflows.services.errors import ServicesConfigError

ROLES: Mapping[str, tuple[str, ...]] = {
    "Service::airflow": ("scheduler",),
    "Service::alertmanager": ("signaller",),
    "Service::minio": ("signaller",),
    "Service::n8n": ("scheduler",),
    "Service::prometheus": ("scheduler",),
    "Service::runner": ("runner",),
    "CI::push": ("pusher",),
}
"""Roles at the HTTP door by service; the person who runs the services is its admin."""

RUNNER = "Service::runner"
"""Who drives runs that no person has started at a terminal: the reconciler's, the door's, Airflow's."""

SIGNERS = ("Service::n8n", "Service::alertmanager", "Service::minio", "CI::push", "Service::airflow")
"""Who may sign a webhook."""


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """All secrets. They appear in no representation.

    Attributes:
        minio_root: User and password of MinIO's root, for its set-up only.
        minio_loop: Access key and secret of the loop's own user.
        api_keys: API key of the HTTP door by subject.
        webhooks: Standard Webhooks secret by subject.
        n8n_token: Carried by deliveries to n8n in a header, beside the signature.
    """

    minio_root: tuple[str, str]
    minio_loop: tuple[str, str]
    api_keys: Mapping[str, str]
    webhooks: Mapping[str, str]
    n8n_token: str


def owner() -> str:
    """The subject of the person who runs the services."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
    return f"Person::{name}"


def load_secrets(path: Path) -> Secrets:
    """Reads the secrets, after making those that are missing.

    Raises:
        ServicesConfigError: Others may read the file, or it holds no TOML.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        document = _read(path)
        full = {table: {**_fresh(names, document.get(table, {}))} for table, names in _wanted().items()}
        if full != document:
            _write(path, full)
    minio = full["minio"]
    return Secrets(
        (minio["root_user"], minio["root_password"]),
        (minio["loop_user"], minio["loop_password"]),
        full["api_keys"],
        full["webhook_secrets"],
        full["n8n"]["token"],
    )


def _wanted() -> dict[str, dict[str, Callable[[], str]]]:
    return {
        "minio": {
            "root_user": lambda: "everloop-root",
            "root_password": lambda: secrets.token_urlsafe(24),
            "loop_user": lambda: "everloop-loop",
            "loop_password": lambda: secrets.token_urlsafe(24),
        },
        "api_keys": dict.fromkeys((owner(), *ROLES), new_api_key),
        "webhook_secrets": dict.fromkeys(
            SIGNERS, lambda: "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        ),
        "n8n": {"token": lambda: secrets.token_urlsafe(32)},
    }


def _fresh(names: Mapping[str, Callable[[], str]], known: Mapping[str, str]) -> dict[str, str]:
    return {**known, **{name: make() for name, make in names.items() if name not in known}}


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ServicesConfigError(str(path), "others may read it; make it 0600, or remove it for new secrets")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ServicesConfigError(str(path), type(error).__name__) from None


def _write(path: Path, document: Mapping[str, Mapping[str, str]]) -> None:
    # A JSON string is a TOML basic string.
    lines = ["# Made by `python -m workflows.services up`. Keep it to yourself."]
    for table, entries in document.items():
        lines += ["", f"[{table}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in entries.items())]
    write_private(path, "\n".join(lines) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replaces a file by one that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
