from __future__ import annotations

from typing import Any

import pytest

from tests.charts.rendering import CHART, PROFILES, Render, pods

MAX_RELEASED_VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_is_restricted(render: Render, profile: str) -> None:
    """Pod Security Standard `restricted`, and more: numeric user, read-only root."""
    found = pods(render(profile))
    assert found
    for name, pod in found:
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == 65532, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        for volume in pod.get("volumes", []):
            assert set(volume) - {"name"} <= MAX_RELEASED_VOLUMES, (name, volume)
        for container in _containers(pod):
            at = f"{name}/{container['name']}"
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, at
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, at
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, at
            assert not any("hostPort" in port for port in container.get("ports", [])), at


@pytest.mark.parametrize("profile", PROFILES)
def test_only_a_head_with_an_autoscaler_has_a_service_account_token(render: Render, profile: str) -> None:
    for name, pod in pods(render(profile, "ray.autoscaling.enabled=true")):
        assert pod["automountServiceAccountToken"] is name.endswith("/head"), name
    for name, pod in pods(render(profile, "ray.autoscaling.enabled=false")):
        assert pod["automountServiceAccountToken"] is False, name


@pytest.mark.parametrize("profile", PROFILES)
def test_every_container_asks_for_memory_and_has_a_limit(render: Render, profile: str) -> None:
    for name, pod in pods(render(profile)):
        for container in _containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), (name, container["name"])
            assert "memory" in resources["limits"], (name, container["name"])


@pytest.mark.parametrize("profile", PROFILES)
def test_probes_are_patient(render: Render, profile: str) -> None:
    num_probes = 0
    for name, pod in pods(render(profile)):
        for container in pod["containers"]:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                if kind in container:
                    num_probes += 1
                    assert container[kind]["timeoutSeconds"] >= 10, (name, container["name"], kind)
    assert num_probes >= 10


def test_a_preparing_image_can_be_replaced_by_a_public_one(render: Render) -> None:
    manifests = render("ci", "images.overrides.prometheus=quay.io/prometheus/prometheus:v3")
    found = {name: pod["containers"][0]["image"] for name, pod in pods(manifests)}
    assert found["Deployment/el-prometheus"] == "quay.io/prometheus/prometheus:v3"
    assert found["Deployment/el-mlflow"] == "everloop/mlflow:0.1.0"


def test_secrets_reach_the_environment_by_reference_only(render: Render) -> None:
    named = 0
    for name, pod in pods(render("ci")):
        for container in _containers(pod):
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("KEY", "TOKEN", "SECRET", "PASSWORD")):
                    named += 1
                    assert "secretKeyRef" in variable["valueFrom"], (name, variable["name"])
    assert named >= 6


def test_claims_and_secret_outlive_the_release(render: Render) -> None:
    kept = [each for each in render("ci") if each["kind"] in {"PersistentVolumeClaim", "Secret"}]
    assert {each["metadata"]["name"] for each in kept} >= {"el-minio", "el-mlflow", "el-prometheus", "el-secrets"}
    for each in kept:
        assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", each["metadata"]["name"]


def test_parts_can_be_switched_off_for_a_teams_own(render: Render) -> None:
    for part in ("mlflow", "triggers", "gateway", "prometheus", "alertmanager"):
        names = [
            each["metadata"]["name"] for each in render("ci", f"{part}.enabled=false") if each["kind"] == "Deployment"
        ]
        assert f"el-{part}" not in names
        assert f"el-{part}" in [each["metadata"]["name"] for each in render("ci")]


def test_ray_asks_for_a_token(render: Render) -> None:
    cluster = next(each for each in render("ci") if each["kind"] == "RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "el-secrets"}


def test_rules_and_dashboards_are_those_of_the_project(render: Render) -> None:
    config_maps = {each["metadata"]["name"]: each for each in render("ci") if each["kind"] == "ConfigMap"}
    rules = config_maps["el-rules"]["data"]
    assert set(rules) == {path.name for path in (CHART / "rules").glob("*.y*ml")}
    for path in (CHART / "dashboards").glob("*.json"):
        name = f"el-dashboard-{path.stem.replace('_', '-')}"
        assert config_maps[name]["data"][path.name].strip() == path.read_text().strip()
