from __future__ import annotations

from typing import Any

import pytest

from workflows.access import verify_audit

ANN, OLGA, VIC, ADAM = "Person::ann", "Person::olga", "Person::vic", "Person::adam"
DIGEST = "d" * 64


@pytest.fixture
def token(door: Any) -> str:
    return issue(door)


def issue(door: Any, **changes: Any) -> str:
    facts = {"team": "search", "protected": True, "authors": (OLGA,), "expires_s": 600.0, **changes}
    return str(door.access.approvals.issue("r1", "release", DIGEST, **facts))


def decide(door: Any, subject: str, token: str, decision: str = "approve") -> Any:
    return door.send(subject, "POST", f"/v1/approvals/{token}", {"decision": decision, "reason": "looks well"})


def test_looking_shows_the_question_and_decides_nothing(door: Any, token: str) -> None:
    for _ in range(3):
        shown = door.send(ANN, "GET", f"/v1/approvals/{token}").json()
        assert (shown["run_id"], shown["gate"], shown["digest"], shown["decision"]) == ("r1", "release", DIGEST, None)
    assert door.loop.decisions == []
    assert door.client.head(f"/v1/approvals/{token}", headers=door.headers(ANN)).status_code == 405


@pytest.mark.parametrize(("decision", "granted"), [("approve", True), ("reject", False)])
def test_a_decision_reaches_the_run(decision: str, granted: bool, door: Any, token: str) -> None:
    answer = decide(door, ANN, token, decision)
    assert answer.status_code == 200
    assert (answer.json()["decision"], answer.json()["by"]) == (decision, ANN)
    assert [(found.granted, found.by, found.reason) for found in door.loop.decisions] == [(granted, ANN, "looks well")]


def test_the_second_decision_is_a_conflict(door: Any, token: str) -> None:
    assert decide(door, ANN, token).status_code == 200
    again = decide(door, ANN, token, "reject")
    assert again.status_code == 409
    assert again.json()["type"] == "/problems/token-spent"
    assert len(door.loop.decisions) == 1


@pytest.mark.parametrize("subject", [VIC, OLGA, ADAM, "Service::n8n"])
def test_viewer_author_stranger_and_service_are_denied_and_audited(subject: str, door: Any, token: str) -> None:
    assert decide(door, subject, token).status_code == 403
    denial = door.audited()[-1]
    assert (denial["principal"], denial["action"], denial["decision"]) == (subject, "approve", "deny")
    assert door.loop.decisions == []
    assert decide(door, ANN, token).status_code == 200


def test_without_a_key_the_token_opens_nothing(door: Any, token: str) -> None:
    for answer in (
        door.client.get(f"/v1/approvals/{token}"),
        door.client.post(f"/v1/approvals/{token}", json={"decision": "approve"}),
    ):
        assert answer.status_code == 401
    assert door.loop.decisions == []
    assert decide(door, ANN, token).status_code == 200


@pytest.mark.parametrize("forged", ["x", "A" * 43, "..", "%2e%2e%2fruns", "a" * 300])
def test_a_forged_token_is_a_4xx(forged: str, door: Any, token: str) -> None:
    assert decide(door, ANN, forged).status_code in (404, 405, 422)
    assert door.send(ANN, "GET", f"/v1/approvals/{forged}").status_code in (404, 422)
    assert door.loop.decisions == []


def test_an_expired_token_is_gone(door: Any) -> None:
    expired = issue(door, expires_s=0.0)
    assert decide(door, ANN, expired).status_code == 410
    assert door.send(ANN, "GET", f"/v1/approvals/{expired}").status_code == 410
    assert door.loop.decisions == []


def test_a_changed_artifact_voids_the_token(door: Any, token: str) -> None:
    door.loop.digest = "e" * 64
    assert decide(door, ANN, token).json()["type"] == "/problems/approval-void"
    door.loop.digest = DIGEST
    assert decide(door, ANN, token).status_code == 409
    assert door.send(ANN, "GET", f"/v1/approvals/{token}").json()["is_void"]
    assert door.loop.decisions == []


@pytest.mark.parametrize(
    "body", [{}, {"decision": "yes"}, {"decision": True}, {"decision": "approve", "x": 1}, [], None]
)
def test_an_unclear_decision_is_none(body: Any, door: Any, token: str) -> None:
    assert door.send(ANN, "POST", f"/v1/approvals/{token}", body).status_code == 422
    assert door.loop.decisions == []


def test_tokens_and_keys_reach_neither_the_audit_log_nor_the_metrics(door: Any, token: str) -> None:
    door.client.get(f"/v1/approvals/{token}")
    decide(door, VIC, token)
    decide(door, ANN, token)
    door.access.audit.flush()
    stored = b"".join(door.store.get(info.key) for info in door.store.list(""))
    metrics = door.send("Service::prometheus", "GET", "/metrics").text
    for secret in (token, door.keys[ANN], door.keys[VIC]):
        assert secret.encode() not in stored
        assert secret not in metrics
    assert b"/v1/approvals/{token}" in stored
    assert 'route="/v1/approvals/{token}"' in metrics
    assert verify_audit(door.store, [door.access.audit._key.public]).ok
