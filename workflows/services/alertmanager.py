"""Alertmanager: groups alerts, and posts them to the HTTP door, where those with an alias are signals."""

from __future__ import annotations

import json
from typing import Any

from workflows.services.config import HOST
from workflows.services.secret_file import write_private
from workflows.services.service import Daemon, Launch, answers, program, write_if_changed
from workflows.services.site import Site


class Alertmanager(Daemon):
    """Brings alerts to the door."""

    name = "alertmanager"
    port = "alertmanager"
    port_advice = "Debian starts one of its own after installation: systemctl disable --now prometheus-alertmanager"

    def launch(self) -> Launch:
        binary = program(self.name, "prometheus-alertmanager", "apt-get install prometheus-alertmanager")
        key = self.folder / "door.key"
        write_private(key, self.site.secrets.api_keys["Service::alertmanager"])
        config = write_if_changed(
            self.folder / "alertmanager.yml", json.dumps(settings(self.site, str(key)), indent=2) + "\n"
        )
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.site.config.ports.alertmanager}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]
        return Launch(command, settings=[config])

    def problem(self) -> str:
        return answers(f"{self.site.url('alertmanager')}/-/ready")


def settings(site: Site, key_file: str) -> dict[str, Any]:
    """The configuration file as data; JSON is YAML.

    Drift waits for nothing: the sooner it is a signal, the sooner it is answered, and the door takes it once anyhow.
    """
    waits = site.config.alertmanager
    door = {
        "name": "door",
        "webhook_configs": [
            {
                "url": f"{site.url('triggers')}/v1/hooks/alertmanager",
                "send_resolved": True,
                "http_config": {"authorization": {"type": "Bearer", "credentials_file": key_file}},
            }
        ],
    }
    drift = {
        "receiver": "door",
        "matchers": ['signal="drift"'],
        "group_by": ["alertname", "alias"],
        "group_wait": "0s",
        "group_interval": _duration(waits.group_interval_s),
    }
    return {
        "route": {
            "receiver": "door",
            "group_by": ["alertname", "alias"],
            "group_wait": _duration(waits.group_wait_s),
            "group_interval": _duration(waits.group_interval_s),
            "repeat_interval": _duration(waits.repeat_interval_s),
            "routes": [drift],
        },
        # A loop that does not reconcile explains what else stands still.
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="ReconcilerSilent"'],
                "target_matchers": ['alertname=~"RunStuck|OutboxStuck|CanaryStuck"'],
            }
        ],
        "receivers": [door if "triggers" in site.names else {"name": "door"}],
    }


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"
