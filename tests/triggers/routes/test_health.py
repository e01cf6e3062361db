from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workflows.access import AuditLog, Directory, FollowedDirectory, PolicyError, key_digest
from workflows.log import StoreUnavailable


@pytest.fixture
def open_team_door(open_door: Callable[..., Any], tmp_path: Path) -> tuple[Any, Path]:
    """A door over a file of principals, and that file."""
    path = tmp_path / "principals.toml"

    def written(directory: Directory, audit: AuditLog) -> FollowedDirectory:
        digests = {subject: digest for digest, subject in directory.api_keys.items()}
        tables = (
            f'[[principal]]\nkind = "{who.kind}"\nid = "{who.id}"\nroles = {json.dumps(who.roles)}\n'
            f'team = "{who.team}"\napi_keys = ["{digests[who.subject]}"]\n'
            for who in directory.principals.values()
        )
        path.write_text("\n".join(tables))
        return FollowedDirectory(path, audit.event)

    return open_door(followed=written), path


def test_the_process_answers_whatever_the_storage_does(door: Any) -> None:
    door.loop.trouble = StoreUnavailable("file:///s", "k", "away")
    assert door.client.get("/healthz").json() == {"status": "ok"}


def test_readiness_needs_the_storage(door: Any) -> None:
    assert door.client.get("/readyz").status_code == 200
    door.loop.trouble = StoreUnavailable("file:///secret-place", "k", "away")
    answer = door.client.get("/readyz")
    assert answer.status_code == 503
    assert "secret-place" not in answer.text


def test_wrong_policy_files_show(door: Any) -> None:
    def stale() -> str:
        text: str = door.send("Service::prometheus", "GET", "/metrics").text
        return next(line for line in text.splitlines() if line.startswith("everloop_policies_stale"))

    assert stale() == "everloop_policies_stale 0.0"
    door.access.authorizer.reload_error = PolicyError(Path("a.cedar"), 1, "wrong")
    assert stale() == "everloop_policies_stale 1.0"
    assert door.client.get("/readyz").status_code == 503


def test_metrics_are_for_those_who_may_read_them_and_count_every_answer(door: Any) -> None:
    assert door.client.get("/metrics").status_code == 401
    assert door.send("Person::vic", "GET", "/metrics").status_code == 403
    door.client.get("/nowhere/secret-path")
    text = door.send("Service::prometheus", "GET", "/metrics").text
    assert 'everloop_door_requests_total{method="GET",route="/metrics",status="401"} 1.0' in text
    assert 'everloop_door_requests_total{method="GET",route="unknown",status="404"} 1.0' in text
    assert "secret-path" not in text


def test_a_key_that_is_taken_out_of_the_file_is_refused_without_a_restart(open_team_door: Any) -> None:
    door, principals = open_team_door
    ann, vic = "Person::ann", "Person::vic"
    page = door.client.post(
        "/sign-in", data={"key": door.keys[ann]}, headers={"sec-fetch-site": "same-origin"}, follow_redirects=False
    )
    cookie = page.headers["set-cookie"].partition(";")[0]
    assert door.send(ann, "GET", "/v1/runs").status_code == 200
    assert door.client.get("/", headers={"cookie": cookie}).status_code == 200

    principals.write_text(principals.read_text().replace(key_digest(door.keys[ann]), key_digest("another")))
    assert door.send(ann, "GET", "/v1/runs").status_code == 401
    assert door.client.get("/", headers={"cookie": cookie}).status_code == 401
    assert door.send(vic, "GET", "/v1/runs").status_code == 200
    assert [entry["keys_gone"] for entry in door.audited() if entry.get("event") == "principals_loaded"] == [[ann]]

    assert door.client.get("/readyz").status_code == 200
    principals.write_text("x = ")
    answer = door.client.get("/readyz")
    assert (answer.status_code, "principals" in answer.json()["detail"]) == (503, True)
    assert door.send(vic, "GET", "/v1/runs").status_code == 200
    assert door.send(ann, "GET", "/v1/runs").status_code == 401
