"""Alertmanager: groups alerts, and posts them to the HTTP door, where those with an alias are signals."""

from __future__ import annotations

import json
from typing import Any

from workflows.services.config import HOST, PeopleSettings
from workflows.services.secret_file import write_private
from workflows.services.service import Daemon, Launch, answers, program
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
        config = self.folder / "alertmanager.yml"
        write_private(config, json.dumps(settings(self.site, str(key)), indent=2) + "\n")
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

    Alerts with a label `signal` are for the loop: the door takes each of them once. All others are for people. They go
    there without n8n, so that they arrive when n8n is what fails.
    """
    waits = site.config.alertmanager
    to_door = {
        "receiver": "door",
        "matchers": ['signal=~".+"'],
        "group_by": ["alertname", "alias"],
        # The sooner a signal is told, the sooner it is answered; the door counts it once however often it comes.
        "group_wait": "0s",
        "group_interval": _duration(waits.group_interval_s),
        "repeat_interval": _duration(waits.repeat_interval_s),
    }
    return {
        "route": {
            "receiver": "people",
            "group_by": ["alertname", "alias"],
            "group_wait": _duration(waits.group_wait_s),
            "group_interval": _duration(waits.group_interval_s),
            "repeat_interval": _duration(waits.repeat_interval_s),
            "routes": [to_door] if "triggers" in site.names else [],
        },
        # A loop that does not reconcile explains what else stands still.
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="ReconcilerSilent"'],
                "target_matchers": ['alertname=~"RunStuck|OutboxStuck|CanaryStuck"'],
            }
        ],
        "receivers": [_door(site, key_file), {"name": "people", **_people(site.config.people)}],
    }


def _door(site: Site, key_file: str) -> dict[str, Any]:
    config = {
        "url": f"{site.url('triggers')}/v1/hooks/alertmanager",
        "send_resolved": True,
        "http_config": {"authorization": {"type": "Bearer", "credentials_file": key_file}},
    }
    return {"name": "door", "webhook_configs": [config]}


def _people(settings: PeopleSettings) -> dict[str, Any]:
    found: dict[str, Any] = {}
    title = "{{ .CommonLabels.alertname }} {{ .CommonLabels.alias }} ({{ .Status }})"
    if settings.slack_url:
        text = "{{ range .Alerts }}{{ .Annotations.summary }}\n{{ .Annotations.runbook }}\n{{ end }}"
        # One address for all: the channel is the webhook's own.
        slack = {"api_url": settings.slack_url, "send_resolved": True, "title": title, "text": text}
        found["slack_configs"] = [slack]
    if settings.mail:
        mail = settings.mail
        config = {
            "to": mail["to"],
            "from": mail["sender"],
            "smarthost": f"{mail['host']}:{mail.get('port', 25)}",
            "require_tls": bool(mail.get("tls", False) or mail.get("starttls", True)),
            "send_resolved": True,
        }
        if mail.get("user"):
            config |= {"auth_username": mail["user"], "auth_password": mail.get("password", "")}
        found["email_configs"] = [config]
    return found


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"
