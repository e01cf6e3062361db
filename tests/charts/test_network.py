"""Which pod may talk to which, computed from the rendered policies as Kubernetes would: both ends must agree."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, PROFILES, Manifest, Render, pods


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _allows(policies: list[Manifest], labels: dict[str, str], peer: dict[str, str], port: int, way: str) -> bool:
    key, side = ("ingress", "from") if way == "Ingress" else ("egress", "to")
    bound = [
        policy["spec"]
        for policy in policies
        if way in policy["spec"]["policyTypes"] and _matches(policy["spec"]["podSelector"], labels)
    ]
    if not bound:
        return True
    for rule in (rule for spec in bound for rule in spec.get(key) or []):
        ports = rule.get("ports")
        named = ports is None or any(each["port"] == port for each in ports)
        # Peers of this namespace only: blocks of addresses and other namespaces are looked at by other tests.
        peers = [each for each in rule[side] if "podSelector" in each and "namespaceSelector" not in each]
        if named and any(_matches(each["podSelector"], peer) for each in peers):
            return True
    return False


def _components(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    return {pod["labels"]["app.kubernetes.io/component"]: pod["labels"] for _, pod in pods(manifests)}


def _flows(present: set[str], ports: set[int]) -> set[tuple[str, str, int]]:
    listed = yaml.safe_load((CHART / "files" / "flows.yaml").read_text())
    return {
        (row["from"], row["to"], port)
        for row in listed
        if {row["from"], row["to"]} <= present
        for port in (ports if row["port"] == "all" else {row["port"]})
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_exactly_the_listed_flows_are_allowed(render: Render, profile: str) -> None:
    manifests = render(profile)
    policies = [each for each in manifests if each["kind"] == "NetworkPolicy"]
    components = _components(manifests)
    ports = {5000, 5678, 6379, 8000, 8080, 8265, 8400, 8401, 9000, 9090, 9093, 10001, 22}
    allowed = {
        (source, target, port)
        for (source, target), port in product(product(components, components), ports)
        if _allows(policies, components[source], components[target], port, "Egress")
        and _allows(policies, components[target], components[source], port, "Ingress")
    }
    assert allowed == _flows(set(components), ports)
    assert allowed, "a matrix without a flow proves nothing"


def test_a_pod_of_no_component_is_denied_everything_but_dns(render: Render) -> None:
    manifests = render("ci")
    policies = [each for each in manifests if each["kind"] == "NetworkPolicy"]
    stranger = {"app.kubernetes.io/instance": "el", "app.kubernetes.io/component": "stranger"}
    minio = _components(manifests)["minio"]
    assert not _allows(policies, stranger, minio, 9000, "Egress")
    assert not _allows(policies, minio, stranger, 9000, "Ingress")
    assert _allows(policies, minio, _components(manifests)["ray-worker"], 9000, "Ingress"), "the control"


def test_the_web_never_includes_private_networks_or_the_metadata_service(render: Render) -> None:
    blocks = [
        peer["ipBlock"]
        for policy in render("ci")
        if policy["kind"] == "NetworkPolicy"
        for rule in policy["spec"].get("egress") or []
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks
    for block in blocks:
        assert {"169.254.0.0/16", "10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12"} <= set(block["except"])


def test_from_other_namespaces_only_the_doors_are_open(render: Render) -> None:
    open_to = {
        (policy["metadata"]["name"], port["port"])
        for policy in render("ci")
        if policy["kind"] == "NetworkPolicy"
        for rule in policy["spec"].get("ingress") or []
        if any("namespaceSelector" in peer for peer in rule["from"])
        for port in rule["ports"]
    }
    assert open_to == {("el-gateway", 8080), ("el-triggers", 8400), ("el-ray-head", 8265)}


def test_every_policy_row_has_a_reason() -> None:
    for row in yaml.safe_load((CHART / "files" / "flows.yaml").read_text()):
        assert set(row) == {"from", "to", "port", "why"}
