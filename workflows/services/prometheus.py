"""Prometheus: scrapes everything that tells numbers, evaluates the rules, tells Alertmanager."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steps.deploy.converge import recorded_endpoint
from workflows.engine.head import find
from workflows.log import open_store
from workflows.services.config import HOST
from workflows.services.ray_head import environment
from workflows.services.secret_file import RUNNER, write_private
from workflows.services.service import Daemon, Launch, answers, program, write_if_changed
from workflows.services.site import PROJECT, Site

RULES = PROJECT / "charts" / "everloop" / "rules"


class Prometheus(Daemon):
    """The metrics store."""

    name = "prometheus"
    port = "prometheus"
    after = ("ray",)
    port_advice = "Debian starts one of its own after installation: systemctl disable --now prometheus"

    def launch(self) -> Launch:
        binary = program(self.name, "prometheus", "apt-get install prometheus")
        config = self.folder / "prometheus.yml"
        key = self.folder / "door.key"
        write_private(key, self.site.secrets.api_keys["Service::prometheus"])
        write_if_changed(config, json.dumps(settings(self.site, self.folder), indent=2) + "\n")
        settings_of = self.site.config.prometheus
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--storage.tsdb.retention.time={settings_of.retention}",
            f"--web.listen-address={HOST}:{self.site.config.ports.prometheus}",
            "--log.level=warn",
        ]
        return Launch(command, settings=[config, *rule_files(settings_of.rules)])

    def problem(self) -> str:
        return answers(f"{self.site.url('prometheus')}/-/ready")

    def set_up(self) -> None:
        if "ray" in self.site.names:
            follow_ray(self.site, self.folder)
            follow_endpoint(self.site, self.folder)


def rule_files(folders: Sequence[Path]) -> list[Path]:
    """All rule files, in the order of their names."""
    return [path for folder in folders or (RULES,) for path in sorted(folder.absolute().glob("*.yaml"))]


def settings(site: Site, folder: Path) -> dict[str, Any]:
    """The configuration file as data; JSON is YAML."""
    config = site.config
    # Prometheus knows no half seconds without a unit.
    scrape, evaluate = (
        f"{seconds * 1000:.0f}ms"
        for seconds in (config.prometheus.scrape_interval_s, config.prometheus.evaluation_interval_s)
    )
    bearer = {"authorization": {"type": "Bearer", "credentials_file": str(folder / "door.key")}}
    jobs: list[dict[str, Any]] = [_job("prometheus", config.ports.prometheus)]
    if "reconciler" in site.names:
        jobs.append(_job("reconciler", config.ports.reconciler))
    if "triggers" in site.names:
        jobs.append(_job("triggers", config.ports.triggers) | bearer)
    if "alertmanager" in site.names:
        jobs.append(_job("alertmanager", config.ports.alertmanager))
    if "minio" in site.names:
        jobs.append(_job("minio", config.ports.minio) | {"metrics_path": "/minio/v2/metrics/cluster"})
    if "n8n" in site.names:
        jobs.append(_job("n8n", config.ports.n8n))
    # The targets of these come and go: Ray keeps a list of its own, the endpoint is there after the first release.
    jobs += [_files("endpoint", folder), _files("ray", folder)]
    document: dict[str, Any] = {
        "global": {"scrape_interval": scrape, "evaluation_interval": evaluate, "scrape_timeout": scrape},
        "rule_files": [str(path) for path in rule_files(config.prometheus.rules)],
        "scrape_configs": jobs,
    }
    if config.prometheus.scrape_interval_s > 10:
        document["global"]["scrape_timeout"] = "10s"
    if "alertmanager" in site.names:
        target = {"static_configs": [{"targets": [f"{HOST}:{config.ports.alertmanager}"]}]}
        document["alerting"] = {"alertmanagers": [target]}
    return document


def _job(name: str, port: int) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [f"{HOST}:{port}"]}]}


def _files(name: str, folder: Path) -> dict[str, Any]:
    return {
        "job_name": name,
        "file_sd_configs": [{"files": [str(folder / "targets" / f"{name}.json")], "refresh_interval": "5s"}],
    }


def follow_ray(site: Site, folder: Path) -> None:
    """Points to the list of targets that our own Ray head keeps."""
    link = folder / "targets" / "ray.json"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    head = find(site.state)
    if head is not None:
        link.symlink_to(Path(head.temp_dir) / "prom_metrics_service_discovery.json")


def follow_endpoint(site: Site, folder: Path) -> None:
    """Points to the endpoint of the models, as the storage records it."""
    with environment(site.loop_environment(RUNNER)):
        url = recorded_endpoint(open_store(site.storage))
    if url is not None:
        parts = urlsplit(url)
        labels = {"__metrics_path__": f"{parts.path.rstrip('/')}/metrics"}
        target = [{"targets": [parts.netloc], "labels": labels}]
        write_if_changed(folder / "targets" / "endpoint.json", json.dumps(target) + "\n")
