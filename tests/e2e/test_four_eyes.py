"""Who started a run for a protected alias cannot let its model go: on a real run, through the door."""

from __future__ import annotations

import pytest

from steps.common.releases import open_release_log
from tests.e2e.team_round import TeamRound
from workflows.log import list_logs, stored_records

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_author_is_refused_and_the_run_waits_on(team: TeamRound) -> None:
    status, problem = team.tried[0]
    assert (status, problem["type"], problem["status"]) == (403, "/problems/denied", 403)
    assert "Person::olga" in problem["detail"]
    assert "approve" in problem["detail"]
    assert team.before_decision["status"] == "parked"
    assert [wait["name"] for wait in team.before_decision["waits"]] == ["release"]


def test_another_person_releases_it_once(team: TeamRound) -> None:
    assert [status for status, _ in team.tried] == [403, 200, 409]
    decided = [record for record in stored_records(team.store, f"runs/{team.run_id}", 0) if record.kind == "decided"]
    assert [(found.data["approved"], found.data["by"]) for found in decided] == [(True, "Person::ann")]
    records = list(open_release_log(team.store, "nano").records())
    named = {record.kind: record.data["approved_by"] for record in records if "approved_by" in record.data}
    assert named.keys() >= {"rollout-opened", "promoted"}
    assert all(approved_by == ["Person::ann"] for approved_by in named.values())


def test_both_decisions_stand_in_the_audit_log_with_their_policies(team: TeamRound) -> None:
    entries = [
        entry
        for log in list_logs(team.store, "audit")
        for record in stored_records(team.store, log, 0)
        for entry in record.data.get("entries", ())
        if entry.get("action") == "approve"
    ]
    told = [(entry["principal"], entry["decision"], tuple(entry["policies"])) for entry in entries]
    assert ("Person::olga", "deny", ("four-eyes-approve",)) in told
    assert {(who, decision) for who, decision, _ in told} == {("Person::olga", "deny"), ("Person::ann", "allow")}
