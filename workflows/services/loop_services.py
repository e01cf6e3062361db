"""The two services of our own: the HTTP door and the reconciler."""

from __future__ import annotations

import sys

from workflows.access import key_digest
from workflows.services.config import HOST
from workflows.services.secret_file import ROLES, owner, write_private
from workflows.services.service import Daemon, Launch, answers
from workflows.services.site import Site
from workflows.services.toml_text import toml_text


class Triggers(Daemon):
    """The HTTP door."""

    name = "triggers"
    port = "triggers"
    after = ("minio",)

    def launch(self) -> Launch:
        principals, settings = self.folder / "principals.toml", self.folder / "settings.toml"
        write_private(principals, _principals(self.site))
        document = {
            "storage": self.site.storage,
            "host": HOST,
            "port": self.site.config.ports.triggers,
            "public_url": self.site.url("triggers"),
            "state": str(self.folder / "state"),
            "principals": str(principals),
            "webhook_secrets": {name: [secret] for name, secret in self.site.secrets.webhooks.items()},
            "aliases": {self.site.config.loop.alias: {"recipe": self.site.config.loop.recipe}},
        }
        write_private(settings, toml_text(document))
        command = [sys.executable, "-m", "triggers", "--settings", str(settings)]
        return Launch(command, self.site.loop_environment(), [settings, principals])

    def problem(self) -> str:
        return answers(f"{self.site.url('triggers')}/readyz")


class Reconciler(Daemon):
    """The hands-off part."""

    name = "reconciler"
    port = "reconciler"
    after = ("minio", "mlflow", "ray")

    def launch(self) -> Launch:
        command = [sys.executable, "-m", "workflows.reconcile", "--storage", self.site.storage]
        command += ["--metrics-port", str(self.site.config.ports.reconciler)]
        command += ["--interval-s", str(self.site.config.reconciler.interval_s)]
        return Launch(command, self.site.loop_environment())

    def problem(self) -> str:
        return answers(f"{self.site.url('reconciler')}/metrics")


def _principals(site: Site) -> str:
    """The directory of principals: the person here is the admin, each program has its one role."""
    entries = []
    for subject, key in site.secrets.api_keys.items():
        kind, _, name = subject.partition("::")
        entries.append(
            {
                "kind": kind,
                "id": name,
                "roles": list(("admin",) if subject == owner() else ROLES.get(subject, ())),
                "team": "local",
                "clearance": "restricted" if kind == "Person" else "internal",
                "api_keys": [key_digest(key)],
            }
        )
    return toml_text({"principal": entries})
