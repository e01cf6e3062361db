from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.charts.rendering import CHART, PROFILES

Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_passes_the_strict_lint(helm: Helm, profile: str) -> None:
    done = helm("lint", "--strict", str(CHART), "-f", str(CHART / "ci" / f"{profile}-values.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nonsense=1", "nonsense"),
        ("ray.head.numCpuz=1", "numCpuz"),
        ("minio.persistence.size=much", "size"),
        ("gateway.replicas=0", "replicas"),
        ("gateway.service.type=Magic", "type"),
        ("triggers.publicUrl=example.org", "publicUrl"),
        ("storage.uri=file:///data", "uri"),
        ("ray.workers.cpu.maxReplicas=none", "maxReplicas"),
        ("minio.resources.requests.memory=lots", "memory"),
        ("prometheus.retention=long", "retention"),
        ("ray.image=cuda", "image"),
        ("drift.size=much", "size"),
    ],
)
def test_the_schema_refuses_and_names_the_key(helm: Helm, change: str, said: str) -> None:
    assert helm("template", "el", str(CHART), "--kube-version", "1.34.0").returncode == 0
    done = helm("template", "el", str(CHART), "--kube-version", "1.34.0", "--set", change)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_storage_must_be_named_when_the_chart_brings_none(helm: Helm) -> None:
    done = helm("template", "el", str(CHART), "--kube-version", "1.34.0", "--set", "minio.enabled=false")
    assert "storage.uri" in done.stderr


def _objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for key, child in schema.get("properties", {}).items():
        yield from _objects(child, f"{path}.{key}")


def test_every_key_is_described_and_none_may_be_added() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    for path, described in _objects(schema):
        assert described.get("description"), path
        if "properties" in described:
            assert described.get("additionalProperties") is False, path


def test_the_table_of_the_readme_is_the_generated_one() -> None:
    done = subprocess.run([sys.executable, str(CHART / "generate_readme.py"), "--check"], check=False, timeout=60)
    assert done.returncode == 0, "run python charts/everloop/generate_readme.py"
