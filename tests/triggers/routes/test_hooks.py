from __future__ import annotations

from typing import Any

import pytest

ALERTMANAGER, VIC, N8N = "Service::alertmanager", "Person::vic", "Service::n8n"


def alert(**changes: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": {"alertname": "Drift", "alias": "tiny", "signal": "drift"},
        "annotations": {"summary": "inputs drifted"},
        "startsAt": "2026-11-24T04:15:30Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus",
        "fingerprint": "0d7e3a6f",
        "a field of a later version": {"x": 1},
        **changes,
    }


def deliver(door: Any, *alerts: dict[str, Any], subject: str = ALERTMANAGER) -> Any:
    body = {
        "version": "4",
        "groupKey": "g",
        "truncatedAlerts": 0,
        "receiver": "everloop",
        "new": 1,
        "alerts": list(alerts),
    }
    return door.send(subject, "POST", "/v1/hooks/alertmanager", body)


def test_an_alert_is_a_signal_once_however_often_it_is_told(door: Any) -> None:
    answers = [deliver(door, alert()) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["signals"][0]["outcome"] for answer in answers] == ["started"] + ["merged"] * 49
    assert list(door.loop.signals) == [("tiny", "drift", "0d7e3a6f@2026-11-24T04:15:30Z")]
    assert door.loop.evidence[0]["by"] == ALERTMANAGER


def test_another_start_of_the_same_alert_is_another_signal(door: Any) -> None:
    deliver(door, alert(), alert(startsAt="2026-11-25T00:00:00Z"))
    assert len(door.loop.signals) == 2


def test_resolved_alerts_and_those_without_an_alias_are_no_signals(door: Any) -> None:
    assert deliver(door, alert(status="resolved"), alert(labels={"alertname": "Disk"})).json() == {"signals": []}
    assert door.loop.signals == {}


def test_an_alias_that_nobody_released_is_not_found(door: Any) -> None:
    assert deliver(door, alert(labels={"alias": "unheard-of"})).status_code == 404


@pytest.mark.parametrize("subject", [VIC, "Person::olga", "Service::prometheus"])
def test_who_may_not_signal_starts_nothing(subject: str, door: Any) -> None:
    assert deliver(door, alert(), subject=subject).status_code == 403
    assert door.loop.signals == {}
    assert door.audited()[-1]["action"] == "signal"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"version": "3", "alerts": []},
        {"version": "4", "alerts": [{}]},
        {"version": "4", "alerts": [{"labels": 1}]},
        [],
    ],
)
def test_another_format_is_refused(body: Any, door: Any) -> None:
    assert door.send(ALERTMANAGER, "POST", "/v1/hooks/alertmanager", body).status_code == 422
    assert door.loop.signals == {}


def bucket_event(key: str, name: str = "s3:ObjectCreated:Put", etag: str = "e1") -> dict[str, Any]:
    return {
        "eventName": name,
        "eventTime": "x",
        "s3": {"bucket": {"name": "incoming"}, "object": {"key": key, "eTag": etag}},
    }


def test_a_new_object_is_a_signal_once_a_version(door: Any) -> None:
    events = [
        bucket_event("a"),
        bucket_event("a"),
        bucket_event("a", etag="e2"),
        bucket_event("b", "s3:ObjectRemoved:Delete"),
    ]
    body = {"EventName": "s3:ObjectCreated:Put", "Key": "incoming/a", "Records": events}
    answer = door.send(N8N, "POST", "/v1/hooks/minio?alias=tiny", body)
    assert [found["outcome"] for found in answer.json()["signals"]] == ["started", "merged", "started"]
    assert {source for _, source, _ in door.loop.signals} == {"data"}
    assert door.send(N8N, "POST", "/v1/hooks/minio", body).status_code == 422


def push(**changes: str) -> dict[str, str]:
    return {
        "alias": "tiny",
        "ref": "refs/heads/main",
        "commit": "a" * 40,
        "image_digest": "sha256:" + "b" * 64,
        **changes,
    }


def test_a_push_to_the_main_branch_is_a_signal_once_a_commit(door: Any) -> None:
    outcomes = [door.send(N8N, "POST", "/v1/hooks/push", push(**change)).json()["outcome"] for change in (
        {}, {}, {"commit": "c" * 40}, {"ref": "refs/heads/feature", "commit": "d" * 40},
    )]  # fmt: skip
    assert outcomes == ["started", "merged", "started", "suppressed"]


@pytest.mark.parametrize("change", [{"commit": "main"}, {"image_digest": "latest"}, {"alias": ""}])
def test_a_push_that_names_no_fixed_thing_is_refused(change: dict[str, str], door: Any) -> None:
    assert door.send(N8N, "POST", "/v1/hooks/push", push(**change)).status_code == 422
