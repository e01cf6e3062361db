"""The two services of our own: the HTTP door and the reconciler."""

from __future__ import annotations

import sys
from typing import Any

from workflows.services.config import HOST
from workflows.services.principals_file import write_principals
from workflows.services.secret_file import RUNNER, write_private
from workflows.services.service import Daemon, Launch, answers
from workflows.services.toml_text import toml_text


class Triggers(Daemon):
    """The HTTP door."""

    name = "triggers"
    port = "triggers"
    after = ("minio",)

    def launch(self) -> Launch:
        principals, settings = write_principals(self.site), self.folder / "settings.toml"
        document = {
            "storage": self.site.storage,
            "host": HOST,
            "port": self.site.config.ports.triggers,
            "public_url": self.site.url("triggers"),
            "state": str(self.folder / "state"),
            "principals": str(principals),
            "webhook_secrets": {name: [secret] for name, secret in self.site.secrets.webhooks.items()},
            "aliases": {
                self.site.config.loop.alias: {
                    "recipe": self.site.config.loop.recipe,
                    "overrides": list(self.site.config.loop.overrides),
                }
            },
        }
        write_private(settings, toml_text(document))
        command = [sys.executable, "-m", "triggers", "--settings", str(settings)]
        return Launch(command, self.site.loop_environment(RUNNER), [settings, principals])

    def problem(self) -> str:
        return answers(f"{self.site.url('triggers')}/readyz")


class Reconciler(Daemon):
    """The hands-off part."""

    name = "reconciler"
    port = "reconciler"
    after = ("minio", "mlflow", "ray")

    def launch(self) -> Launch:
        settings = self.folder / "settings.toml"
        principals = write_principals(self.site)
        document = {
            "public_url": self.site.url("triggers"),
            "principals": str(principals),
            "notify": self._receivers(),
        }
        write_private(settings, toml_text(document))
        command = [sys.executable, "-m", "workflows.reconcile", "--storage", self.site.storage]
        command += ["--settings", str(settings), "--metrics-port", str(self.site.config.ports.reconciler)]
        command += ["--interval-s", str(self.site.config.reconciler.interval_s)]
        return Launch(command, self.site.loop_environment(RUNNER), [settings, principals])

    def _receivers(self) -> list[dict[str, Any]]:
        """n8n, which has one flow for approvals and one for all else."""
        if "n8n" not in self.site.names:
            return []
        common = {
            "secret": self.site.secrets.webhooks["Service::n8n"],
            "headers": {"x-everloop-token": self.site.secrets.n8n_token},
        }
        hook = f"{self.site.url('n8n')}/webhook"
        return [
            {"name": "n8n-notify", "url": f"{hook}/everloop-notify", "events": ["*", "!approval.requested"], **common},
            {"name": "n8n-approve", "url": f"{hook}/everloop-approve", "events": ["approval.requested"], **common},
        ]

    def problem(self) -> str:
        return answers(f"{self.site.url('reconciler')}/metrics")
