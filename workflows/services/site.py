"""Where the services of one machine live: their configuration, secrets, folders and addresses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workflows.engine.head import BROKER_ACCESS_KEY, BROKER_SECRET_KEY
from workflows.services.config import HOST, ServicesConfig
from workflows.services.secret_file import Secrets, load_secrets

PROJECT = Path(__file__).resolve().parents[2]
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VIRTUAL_ENV", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class Site:
    """One set of services.

    Attributes:
        config: Ports and settings.
        secrets: Keys and passwords.
        state: State folder; services live below `services/`, the Ray head is recorded in `ray.json`.
        names: The services that belong to the set, whether they run or not.
    """

    config: ServicesConfig
    secrets: Secrets
    state: Path
    names: frozenset[str]

    @property
    def storage(self) -> str:
        """URI of the loop's storage."""
        if self.config.loop.storage:
            return self.config.loop.storage
        if "minio" not in self.names:
            return (self.state / "storage").as_uri()
        minio = self.config.minio
        return f"s3://{minio.bucket}/{minio.prefix}?endpoint_override={self.url('minio')}"

    def folder(self, name: str) -> Path:
        """Where a service keeps its pid, log and data."""
        return self.state / "services" / name

    def url(self, name: str) -> str:
        """Address of a service."""
        return f"http://{HOST}:{getattr(self.config.ports, name)}"

    @property
    def principals(self) -> Path:
        """The directory of principals."""
        return self.state / "services" / "principals.toml"

    def loop_environment(self, subject: str) -> dict[str, str]:
        """What a command of the loop needs in order to find these services, and to be known to them as somebody.

        The bucket's keys are also the broker's: with them a runner asks for credentials that fit one step each.
        """
        found = {
            "EVERLOOP_STATE": str(self.state),
            "EVERLOOP_STORAGE": self.storage,
            "EVERLOOP_PRINCIPALS": str(self.principals),
            "EVERLOOP_API_KEY": self.secrets.api_keys[subject],
        }
        if "minio" in self.names:
            user, password = self.secrets.minio_loop
            found |= {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": password, "AWS_REGION": "us-east-1"}
            found |= {BROKER_ACCESS_KEY: user, BROKER_SECRET_KEY: password}
        if "mlflow" in self.names:
            found["MLFLOW_TRACKING_URI"] = self.url("mlflow")
        return found

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of a service: what every program needs, and what it is given. No secrets of the shell."""
        return {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(extra)


def open_site(config: ServicesConfig, state: Path, names: frozenset[str]) -> Site:
    """The set in a state folder; makes its secrets if there are none.

    Raises:
        ServicesConfigError: The secrets cannot be used.
    """
    state = state.absolute()
    return Site(config, load_secrets(state / "services" / "secrets.toml"), state, names)
