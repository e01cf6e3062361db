"""Where the chart is, and what of it becomes a pod."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parents[2] / "charts" / "everloop"
PROFILES = ("ci", "small", "ha", "gpu")
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


def pods(manifests: list[Manifest]) -> list[tuple[str, Manifest]]:
    """Name and pod spec, with its labels under `labels`, of everything that becomes a pod."""
    found = []
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        spec = manifest.get("spec", {})
        templates: list[tuple[str, Manifest]] = []
        if manifest["kind"] == "Pod":
            templates = [(name, manifest)]
        elif manifest["kind"] == "RayCluster":
            templates = [(f"{name}/head", spec["headGroupSpec"]["template"])]
            templates += [(f"{name}/{group['groupName']}", group["template"]) for group in spec["workerGroupSpecs"]]
        elif manifest["kind"] == "CronJob":
            templates = [(name, spec["jobTemplate"]["spec"]["template"])]
        elif "template" in spec:
            templates = [(name, spec["template"])]
        found += [(at, {**each["spec"], "labels": each["metadata"]["labels"]}) for at, each in templates]
    return found
