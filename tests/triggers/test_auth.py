from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triggers.auth import local_directory, private_secret
from workflows.access import WebhookSecret, key_digest, sign_webhook
from workflows.log import StoreDenied

SECRET = WebhookSecret.parse("whsec_" + "bjg0" * 8)
BODY = b'{"recipe": "nano"}'


def signed(
    *, secret: WebhookSecret = SECRET, body: bytes = BODY, now: float | None = None, name: str = "msg_1"
) -> dict[str, str]:
    return {**sign_webhook(secret, name, body, now=now), "content-type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic b2xnYTp4"}, {"authorization": b"bearer \xc3\xa9"}, {"cookie": "key=x"},
    ],
)  # fmt: skip
def test_without_a_key_nothing_is_started_and_the_refusal_is_audited(headers: dict[str, Any], door: Any) -> None:
    raw = {name: value if isinstance(value, bytes) else value.encode() for name, value in headers.items()}
    answer = door.client.post("/v1/runs", json={"recipe": "nano"}, headers=raw)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["detail"] == "a valid key or signature is needed"
    assert door.loop.runs == {}
    refusal = door.audited()[-1]
    assert (refusal["event"], refusal["method"], refusal["path"]) == ("unauthenticated", "POST", "/v1/runs")
    assert door.send("Person::olga", "POST", "/v1/runs", {"recipe": "nano"}).status_code == 202


def test_every_route_but_health_asks_who_it_is(door: Any) -> None:
    description = door.client.get("/openapi.json").json()
    for path, methods in description["paths"].items():
        for method in methods:
            answer = door.client.request(
                method.upper(), path.replace("{run_id}", "r1").replace("{token}", "t"), json={}
            )
            expected = 200 if path in ("/healthz", "/readyz") else 401
            assert answer.status_code == expected, (method, path)


class TestSignatures:
    def test_a_signed_request_stands_for_its_sender(self, door: Any) -> None:
        answer = door.client.post("/v1/runs", content=BODY, headers=signed())
        assert answer.status_code == 202
        assert door.loop.calls == [("start", "nano", "Service::n8n", "")]

    @pytest.mark.parametrize(
        "change",
        [
            lambda: signed(secret=WebhookSecret(b"x" * 32)),
            lambda: signed(body=BODY + b" "),
            lambda: signed(now=time.time() - 360),
            lambda: signed(now=time.time() + 360),
            lambda: {**signed(), "webhook-signature": "v1,????"},
            lambda: {**signed(), "webhook-timestamp": "soon"},
            lambda: {**signed(), "webhook-id": "msg_2"},
        ],
        ids=["secret", "body", "old", "future", "base64", "timestamp", "id"],
    )
    def test_a_bad_signature_starts_nothing(self, change: Callable[[], dict[str, str]], door: Any) -> None:
        assert door.client.post("/v1/runs", content=BODY, headers=change()).status_code == 401
        assert door.loop.runs == {}
        assert door.audited()[-1]["event"] == "unauthenticated"

    def test_a_replay_starts_nothing(self, door: Any) -> None:
        headers = signed()
        assert door.client.post("/v1/runs", content=BODY, headers=headers).status_code == 202
        assert door.client.post("/v1/runs", content=BODY, headers=headers).status_code == 401
        assert len(door.loop.runs) == 1
        assert "received before" in door.audited()[-1]["reason"]

    def test_a_request_that_is_sent_again_starts_no_second_run(self, door: Any) -> None:
        first = door.client.post("/v1/runs", content=BODY, headers=signed(now=time.time() - 2))
        again = door.client.post("/v1/runs", content=BODY, headers=signed())
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["run_id"] == again.json()["run_id"]
        assert len(door.loop.runs) == 1

    def test_a_wrong_key_is_not_saved_by_a_good_signature(self, door: Any) -> None:
        headers = {**signed(), "authorization": "Bearer wrong"}
        assert door.client.post("/v1/runs", content=BODY, headers=headers).status_code == 401


class TestBodies:
    def test_a_body_over_the_limit_is_refused_by_its_declared_length(self, open_door: Any) -> None:
        door = open_door(max_body_bytes=2048)
        for size, expected in ((900, 202), (5000, 413)):
            body = {"recipe": "nano", "reason": "x" * size}
            assert door.send("Person::olga", "POST", "/v1/runs", body).status_code == expected
        assert len(door.loop.runs) == 1

    def test_a_body_that_does_not_tell_its_length_is_counted(self, open_door: Any) -> None:
        door = open_door(max_body_bytes=2048)

        def chunks() -> Iterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        answer = door.client.post("/v1/runs", content=chunks(), headers=door.headers("Person::olga"))
        assert answer.status_code == 413
        assert answer.json()["type"] == "/problems/too-large"


class TestLocalDirectory:
    def test_one_machine_has_one_person_with_a_key_in_a_private_file(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "door.key"
        directory = local_directory(f"file://{tmp_path}/storage", path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        person = directory.by_api_key(path.read_text())
        assert person is not None
        assert person.owns_storage
        assert local_directory(f"file://{tmp_path}/storage", path).api_keys == directory.api_keys
        assert key_digest("") not in directory.api_keys

    @pytest.mark.parametrize("left", ["", "elk_", "\n"])
    def test_a_file_that_a_crash_left_empty_is_no_key_of_everybody(self, left: str, tmp_path: Path) -> None:
        path = tmp_path / "door.key"
        path.write_text(left)
        path.chmod(0o600)
        with pytest.raises(PermissionError, match="remove it"):
            local_directory(str(tmp_path), path)

    def test_of_two_that_make_the_key_at_once_both_have_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "door.key"
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: private_secret(path), range(16)))
        assert len(set(found)) == 1
        assert [each.name for each in path.parent.iterdir()] == ["door.key"]

    def test_a_key_that_others_may_read_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "door.key"
        local_directory(str(tmp_path), path)
        path.chmod(0o644)
        with pytest.raises(PermissionError, match="0600"):
            local_directory(str(tmp_path), path)


def test_an_audit_log_that_cannot_be_written_stops_every_change(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(key: str, data: bytes) -> None:
        raise StoreDenied("file:///s", key, "read-only")

    monkeypatch.setattr(door.store, "create", refuse)
    answer = door.send("Person::olga", "POST", "/v1/runs", {"recipe": "nano"})
    assert answer.status_code == 503
    assert door.loop.runs == {}
    monkeypatch.undo()
    assert door.send("Person::olga", "POST", "/v1/runs", {"recipe": "nano"}).status_code == 202
