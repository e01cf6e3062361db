from __future__ import annotations

from pathlib import Path
from typing import Any

from workflows.access import PolicyError
from workflows.log import StoreUnavailable


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
