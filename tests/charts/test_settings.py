"""What the chart writes into its Secret, read by those who read it in the cluster."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from n8n_flows.settings import load_settings as load_n8n_settings
from tests.charts.rendering import CHART, PROFILES, Manifest, Render, pods
from triggers.settings import load_settings
from workflows.access import audit_key, load_directory
from workflows.outbox import load_outbox_settings

WHOLE = (
    "airflow.enabled=true",
    "n8n.enabled=true",
    "n8n.settings.slack.url=http://sink:8080/slack",
    "triggers.aliases.nano.recipe=nano",
    "airflow.overrides={scrape.max_pages=6}",
)


def _secret(render: Render, folder: Path, profile: str, *changes: str) -> dict[str, str]:
    (found,) = [each for each in render(profile, *changes) if each["kind"] == "Secret"]
    decoded = {key: base64.b64decode(value).decode() for key, value in found["data"].items()}
    for key, value in decoded.items():
        (folder / key).write_text(value)
        (folder / key).chmod(0o600)
    return decoded


@pytest.mark.parametrize("profile", [each for each in PROFILES if each != "ha"])
def test_every_program_takes_the_settings_of_every_profile(render: Render, tmp_path: Path, profile: str) -> None:
    _secret(render, tmp_path, profile)
    assert load_settings(tmp_path / "triggers.toml").storage.startswith("s3://")
    assert load_outbox_settings(tmp_path / "reconcile.toml").notify == ()
    assert set(load_directory(tmp_path / "principals.toml").principals) >= {
        "Person::admin",
        "Service::airflow",
    }


def test_every_program_takes_the_settings_of_a_whole_set(render: Render, tmp_path: Path) -> None:
    secret = _secret(render, tmp_path, "ci", *WHOLE, "triggers.publicUrl=https://loop.example.org")
    assert load_settings(tmp_path / "triggers.toml").aliases["nano"].recipe == "nano"
    outbox = load_outbox_settings(tmp_path / "reconcile.toml")
    assert outbox.public_url == "https://loop.example.org"
    n8n = load_n8n_settings(tmp_path / "n8n.toml")
    assert {receiver.secret.get_secret_value() for receiver in outbox.notify} == {n8n.webhook.secret}
    assert n8n.server.has_metrics
    directory = load_directory(tmp_path / "principals.toml")
    known = directory.principals
    connections = json.loads(secret["airflow-connections.json"])
    assert directory.by_api_key(connections["everloop_door"]["password"]) == known["Service::airflow"]
    assert directory.by_api_key(n8n.door.api_key) == known["Service::n8n"]
    variables = json.loads(secret["airflow-variables.json"])
    assert json.loads(variables["everloop_overrides"]) == ["scrape.max_pages=6"]
    assert variables["everloop_python"] == "/etc/everloop/python"


def test_root_keys_of_the_storage_stand_in_its_own_pod_only(render: Render) -> None:
    holders = {
        (manifest["kind"], manifest["metadata"]["name"])
        for manifest in render("ci", *WHOLE)
        if "minio-root-password" in json.dumps(manifest) and manifest["kind"] != "Secret"
    }
    assert holders == {("Deployment", "el-minio")}


def test_keys_of_the_broker_reach_drivers_and_no_worker(render: Render) -> None:
    (cluster,) = [each for each in render("ci") if each["kind"] == "RayCluster"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    workers = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    with_broker = {each["name"] for each in head if "EVERLOOP_BROKER_SECRET_KEY" in json.dumps(each)}
    assert with_broker == {"reconciler"}
    assert "/etc/everloop" not in json.dumps(workers)
    assert "BROKER" not in json.dumps(render("ci", "storage.stepCredentials=false"))


def test_doors_and_drivers_sign_the_audit_log_with_one_key_and_no_worker_has_it(render: Render, tmp_path: Path) -> None:
    manifests = render("ci", *WHOLE)
    holders = {
        f"{name} {container['name']}"
        for name, pod in pods(manifests)
        for container in [*pod.get("initContainers", []), *pod["containers"]]
        if "EVERLOOP_AUDIT_KEY" in json.dumps(container)
    }
    assert sorted(each.split()[-1] for each in holders) == ["reconciler", "triggers"]
    secret = _secret(render, tmp_path, "ci", "storage.stepCredentials=false")
    audit_key(None, {"EVERLOOP_AUDIT_KEY": secret["audit-key"]})
    assert f"EVERLOOP_AUDIT_KEY='{secret['audit-key']}'" in secret["python"]


def _keys(manifests: list[Manifest], secret: str) -> set[str]:
    """Keys that pods take out of a Secret."""
    found = set()
    for _, pod in pods(manifests):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            found |= {
                each["valueFrom"]["secretKeyRef"]["key"]
                for each in container.get("env", [])
                if each.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == secret
            }
        for volume in pod.get("volumes", []):
            if volume.get("secret", {}).get("secretName") == secret:
                found |= {item["key"] for item in volume["secret"]["items"]}
    return found


def test_a_secret_of_ones_own_is_used_for_all_and_its_keys_are_documented(render: Render) -> None:
    manifests = render("ci", *WHOLE, "secrets.existingSecret=mine")
    assert not [each for each in manifests if each["kind"] == "Secret"]
    assert "el-secrets" not in json.dumps(manifests)
    needed = _keys(manifests, "mine") | {"auth_token"}
    assert len(needed) >= 15
    text = (CHART.parents[1] / "docs" / "kubernetes.md").read_text()
    listed = text[text.index("Keys of the Secret") :].split("\n\n")[0]
    assert {key for key in needed if f"`{key}`" not in listed} == set()
    assert _keys(render("ci", *WHOLE), "el-secrets") | {"auth_token"} == needed, "the control"


def test_the_head_may_have_a_priority_of_its_own(render: Render) -> None:
    manifests = render("ha")
    (made,) = [each for each in manifests if each["kind"] == "PriorityClass"]
    heads = [pod for name, pod in pods(manifests) if name.endswith("/head")]
    assert [each["priorityClassName"] for each in heads] == [made["metadata"]["name"]] == ["loop-el-head"]
    assert not [each for each in render("ci") if each["kind"] == "PriorityClass"]
