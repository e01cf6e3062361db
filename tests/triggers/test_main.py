"""The door as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from triggers import push
from triggers.__main__ import main, opened
from triggers.settings import load_settings
from workflows.access import signing_key, verify_audit
from workflows.log import open_store

SECRET = "whsec_" + "bjg0" * 8
DEADLINE_S = 90.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "door.toml"
    path.write_text(f'storage = "file://{tmp_path}/storage"\nport = {free_port()}\n[aliases.nano]\nrecipe = "nano"\n')
    return path


@pytest.fixture
def process(settings: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "triggers", "--settings", str(settings)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate(timeout=DEADLINE_S)


def get(url: str, key: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_door_answers_its_owner_and_ends_cleanly(process: Any, settings: Path, tmp_path: Path) -> None:
    port = int(settings.read_text().split("port = ")[1].split()[0])
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the door did not open"
        try:
            if get(f"{url}/readyz")[0] == 200:
                break
        except OSError:
            time.sleep(0.1)
    state = tmp_path / "storage" / ".state" / "door"
    assert get(f"{url}/v1/runs")[0] == 401
    assert get(f"{url}/v1/runs", (state / "api.key").read_text()) == (200, b'{"runs":[]}')

    process.send_signal(signal.SIGTERM)

    assert process.wait(DEADLINE_S) == 0
    report = verify_audit(open_store(f"file://{tmp_path}/storage"), [signing_key(state / "audit.key").public])
    assert report.ok
    assert {path.stat().st_mode & 0o077 for path in state.glob("*.key")} == {0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 1", "storage"),
        ('storage = "ftp://x"', "ftp"),
        ('storage = "{tmp}/s"\nprincipals = "/no/such/file"', "/no/such/file"),
        ('storage = "{tmp}/s"\npolicies = ["{tmp}/none"]', "none"),
        ('storage = "{tmp}/s"\n[aliases.nano]\nrecipe = "cake"', "cake"),
        ("x = ", "door.toml"),
    ],
)
def test_wrong_settings_are_told_and_nothing_is_opened(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "door.toml"
    path.write_text(text.replace("{tmp}", str(tmp_path)))
    assert main(["--settings", str(path)]) == 2
    assert told in capsys.readouterr().err


def test_settings_are_needed_to_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "--settings" in capsys.readouterr().err


def test_the_description_needs_no_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi"]) == 0
    paths = json.loads(capsys.readouterr().out)["paths"]
    assert {"/v1/runs", "/v1/runs/{run_id}/events", "/v1/hooks/push", "/v1/hooks/notify", "/v1/outbox"} <= set(paths)


class TestPush:
    ARGUMENTS = ("--alias", "nano", "--ref", "refs/heads/main", "--commit", "a" * 40)

    def test_without_a_door_it_says_what_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("EVERLOOP_DOOR", raising=False)
        assert push.main(self.ARGUMENTS) == 2
        monkeypatch.setenv("EVERLOOP_DOOR", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("EVERLOOP_PUSH_SECRET", "weak")
        assert push.main(self.ARGUMENTS) == 2
        monkeypatch.setenv("EVERLOOP_PUSH_SECRET", SECRET)
        assert push.main(self.ARGUMENTS) == 1
        assert SECRET not in capsys.readouterr().err

    def test_a_signed_push_starts_one_run_a_commit(
        self, durable: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def deliver(request: urllib.request.Request, timeout: float) -> Any:
            answer = durable.client.post(
                request.full_url.removeprefix("http://door"), content=request.data, headers=dict(request.headers)
            )
            if answer.status_code >= 400:
                raise urllib.error.HTTPError(request.full_url, answer.status_code, "", {}, None)  # type: ignore[arg-type]
            return Answer(answer.content)

        monkeypatch.setattr(urllib.request, "urlopen", deliver)
        monkeypatch.setenv("EVERLOOP_DOOR", "http://door")
        monkeypatch.setenv("EVERLOOP_PUSH_SECRET", SECRET)
        outcomes = []
        for _ in range(2):
            assert push.main(self.ARGUMENTS) == 0
            outcomes.append(json.loads(capsys.readouterr().out))
        assert [found["outcome"] for found in outcomes] == ["started", "merged"]
        assert len({found["run_id"] for found in outcomes}) == 1
        cause = durable.loop.engine.view(outcomes[0]["run_id"]).cause
        assert (cause["source"], cause["evidence"]["by"]) == ("push", "CI::push")


class Answer:
    """What `urlopen` gives."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self) -> bytes:
        return self._body

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def test_the_driver_outlives_who_started_it(tmp_path: Path) -> None:
    """The driver has a session of its own, and its words are kept."""
    from triggers.drivers import Drivers

    pid = Drivers(f"file://{tmp_path}/storage", tmp_path / "runs").launch("no-such-run")
    assert os.getsid(pid) == pid
    log = tmp_path / "runs" / "no-such-run.log"
    deadline = time.monotonic() + DEADLINE_S
    while "no-such-run" not in log.read_text():
        assert time.monotonic() < deadline, "the driver said nothing"
        time.sleep(0.1)
    assert log.stat().st_mode & 0o077 == 0


def test_doors_that_share_a_session_key_know_each_others_sessions(tmp_path: Path) -> None:
    def sessions(state: str, **given: str) -> Any:
        path = tmp_path / f"{state}.toml"
        lines = [f'storage = "file://{tmp_path}/storage"', f'state = "{tmp_path}/{state}"']
        path.write_text("\n".join(lines + [f'{name} = "{value}"' for name, value in given.items()]))
        with opened(load_settings(path)) as app:
            return app.state.sessions

    one, other = sessions("one", session_key="k" * 40), sessions("other", session_key="k" * 40)
    cookie = one.open((tmp_path / "one" / "api.key").read_text())
    assert other.form_token(cookie) == one.form_token(cookie)
    assert sessions("third").form_token(cookie) != one.form_token(cookie)
