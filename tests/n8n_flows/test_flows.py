"""What holds for every flow, read from the files: fixed ids, no open door, no secrets, no waits without end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from n8n_flows import provision

FOLDER = Path(provision.__file__).parent
FILES = sorted(FOLDER.glob("*_*.json"))
IDS = {
    "notify_people": "everloopNotify01",
    "report_error": "everloopErrors01",
    "request_approval": "everloopApprove1",
    "start_run": "everloopStartRun",
}
ALLOWED = {
    "CUSTOM.signedWebhook",
    *(
        f"n8n-nodes-base.{name}"
        for name in (
            "dataTable",
            "emailSend",
            "errorTrigger",
            "formTrigger",
            "httpRequest",
            "if",
            "respondToWebhook",
            "set",
            "wait",
        )
    ),
}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def flow(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.param.read_text())
    return {**found, "file": request.param.stem}


def nodes(flow: dict[str, Any], *types: str) -> Iterator[dict[str, Any]]:
    return (node for node in flow["nodes"] if node["type"].rpartition(".")[2] in types)


def test_the_folder_holds_the_flows_that_are_published_and_no_other() -> None:
    assert [path.stem for path in FILES] == sorted(provision.FLOWS) == sorted(IDS)
    assert provision.FLOWS[0] == "report_error", "a flow whose error flow is not published fails unseen"


def test_ids_are_fixed_and_the_file_is_not_active(flow: dict[str, Any]) -> None:
    assert flow["id"] == IDS[flow["file"]]
    assert flow["active"] is False, "publishing is a step of its own"
    ids = [node["id"] for node in flow["nodes"]]
    names = [node["name"] for node in flow["nodes"]]
    assert len(set(ids)) == len(ids)
    assert len(set(names)) == len(names)


def test_a_flow_uses_known_nodes_only_and_none_that_runs_code(flow: dict[str, Any]) -> None:
    assert {node["type"] for node in flow["nodes"]} <= ALLOWED


def test_whatever_listens_asks_who_calls(flow: dict[str, Any]) -> None:
    for node in nodes(flow, "signedWebhook"):
        assert set(node["credentials"]) == {"signedWebhookSecret"}
    for node in nodes(flow, "formTrigger"):
        assert node["parameters"]["authentication"] == "basicAuth"
        assert set(node["credentials"]) == {"httpBasicAuth"}
    triggers = [node["type"] for node in flow["nodes"] if "rigger" in node["type"] or "ebhook" in node["type"]]
    known = {
        "CUSTOM.signedWebhook",
        "n8n-nodes-base.formTrigger",
        "n8n-nodes-base.errorTrigger",
        "n8n-nodes-base.respondToWebhook",
    }
    assert set(triggers) <= known


def test_the_paths_are_those_that_provisioning_probes() -> None:
    flows = [provision.load_flow(name) for name in provision.FLOWS]
    paths = {node["parameters"]["path"] for flow in flows for node in nodes(flow, "signedWebhook")}
    forms = {node["parameters"]["path"] for flow in flows for node in nodes(flow, "formTrigger")}
    assert paths == set(provision.SIGNED_PATHS)
    assert forms == {provision.FORM_PATH}


def test_a_failing_flow_is_reported_and_the_report_is_not(flow: dict[str, Any]) -> None:
    if flow["file"] == "report_error":
        assert "errorWorkflow" not in flow["settings"], "its failure would start it again"
    else:
        assert flow["settings"]["errorWorkflow"] == IDS["report_error"]


def test_a_wait_has_an_end(flow: dict[str, Any]) -> None:
    for node in nodes(flow, "wait"):
        assert node["parameters"]["resume"] == "timeInterval" or node["parameters"].get("limitWaitTime") is True
    if not list(nodes(flow, "wait")):
        assert 0 < flow["settings"]["executionTimeout"] <= 300


def test_a_request_to_the_outside_has_a_time_limit_and_follows_no_redirect(flow: dict[str, Any]) -> None:
    for node in nodes(flow, "httpRequest"):
        options = node["parameters"]["options"]
        assert 0 < options["timeout"] <= 30_000, node["name"]
        assert options["redirect"]["redirect"]["followRedirects"] is False, node["name"]
        assert node["parameters"]["authentication"] in ("predefinedCredentialType", "genericCredentialType")


def test_no_flow_holds_a_secret_or_an_address(flow: dict[str, Any]) -> None:
    text = json.dumps(flow)
    assert not re.search(r"whsec_|elk_|Bearer |password|hooks\.slack\.com|127\.0\.0\.1|localhost", text)
    urls = set(re.findall(r"https?://[^\s\"'`\\)]+", text))
    assert urls <= {"https://slack.invalid/"}, "the credential replaces it"


def test_every_credential_a_flow_names_is_provisioned(flow: dict[str, Any], n8n: Any) -> None:
    made = {one["id"]: (one["type"], one["name"]) for one in provision.credentials(n8n)}
    for node in flow["nodes"]:
        for kind, named in node.get("credentials", {}).items():
            assert made[named["id"]] == (kind, named["name"])


def test_the_answer_comes_after_the_sinks(flow: dict[str, Any]) -> None:
    """Whoever is answered may forget: before `Accepted` stands every sink, and a failing sink ends the flow."""
    if flow["file"] not in ("notify_people", "request_approval"):
        return
    before: dict[str, set[str]] = {}
    for source, found in flow["connections"].items():
        for branch in found["main"]:
            for link in branch:
                before.setdefault(link["node"], set()).add(source)
    reached, queue = set(), ["Accepted"]
    while queue:
        for source in before.get(queue.pop(), ()):
            if source not in reached:
                reached.add(source)
                queue.append(source)
    assert {"Slack", "Mail", "Slack receipt", "Mail receipt", "Known"} <= reached
    assert not [node["name"] for node in flow["nodes"] if node.get("onError") or node.get("continueOnFail")]


def test_n8n_decides_nothing() -> None:
    """No flow may post to an approval: it carries the link, and people decide at the door."""
    for name in provision.FLOWS:
        for node in nodes(provision.load_flow(name), "httpRequest"):
            assert "/v1/approvals" not in node["parameters"]["url"]
            assert "/approve" not in node["parameters"]["url"]
