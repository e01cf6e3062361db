"""A real n8n between the loop and people: what is down, killed, forged, repeated or misconfigured.

n8n_flows/README.md says which of its goals each test holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from n8n_flows import install, provision
from n8n_flows.errors import InstallFailed
from n8n_flows.server import N8n
from n8n_flows.settings import load_settings
from tests.n8n_flows.outside import Outside, outside_world, until
from workflows.access import WebhookSecret, sign_webhook
from workflows.log import open_store
from workflows.outbox.dispatcher import Dispatcher
from workflows.outbox.notices import post_notice
from workflows.outbox.settings import Receiver

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
SECRET = "whsec_" + base64.b64encode(bytes(range(200, 240))).decode()
TOKEN = "token-of-the-test"
METRICS_KEY = "key-of-prometheus"
REMIND_AFTER_S = 65
TEN_MINUTES_S = 600.0


@dataclass
class Edge:
    """n8n and the world around it."""

    n8n: N8n
    settings: Path
    outside: Outside
    took_s: dict[str, float]

    @property
    def url(self) -> str:
        return self.n8n.settings.server.url

    def start(self, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`n8n_flows/start`."""
        return subprocess.run(
            [str(REPOSITORY / "n8n_flows" / "start"), "start", "--settings", str(self.settings)],
            capture_output=True,
            text=True,
            check=check,
        )

    def kill(self) -> None:
        """kill -9 of n8n and its task runner, at once."""
        process = self.n8n.process()
        assert process is not None, "nothing to kill"
        os.killpg(process.pid, signal.SIGKILL)
        until(lambda: self.n8n.process() is None)

    def send(self, path: str, body: bytes, headers: dict[str, str], **more: str) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"{self.url}{path}", data=body, headers={"content-type": "application/json", **headers, **more}
        )
        return _answer(request)

    def deliver(self, path: str, document: dict[str, Any], delivery_id: str) -> int:
        """A delivery as the loop's outbox makes it."""
        body = json.dumps(document).encode()
        headers = sign_webhook(WebhookSecret.parse(SECRET), delivery_id, body)
        return self.send(f"/webhook/{path}", body, headers, **{"x-everloop-token": TOKEN})[0]

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Reads n8n's database."""
        path = self.n8n.state / ".n8n" / "database.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(query).fetchall()

    def num_executions(self) -> int:
        """How many flows were ever started."""
        return int((self.ask("SELECT seq FROM sqlite_sequence WHERE name = 'execution_entity'") or [(0,)])[0][0])


def _answer(request: urllib.request.Request, timeout_s: float = 60.0) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (OSError, urllib.error.URLError):
        return 0, b""


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def message(title: str, severity: str = "warning", **links: str) -> dict[str, Any]:
    data = {
        "id": "e",
        "severity": severity,
        "title": title,
        "text": "What <happened> & why.",
        "run_id": "run-1",
        "alias": "tiny",
        "facts": {"loss": 1.5},
        "links": {"page": "http://127.0.0.1/runs/run-1", **links},
    }
    return {"type": "run.failed", "timestamp": "2026-11-24T00:00:00Z", "data": data}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    target = install.installation()
    began = time.monotonic()
    try:
        install.install(target)
    except (InstallFailed, OSError) as error:
        pytest.skip(f"n8n cannot be installed here: {str(error)[-300:]}")
    took_s = {"install": time.monotonic() - began}
    folder = tmp_path_factory.mktemp("n8n")
    port, runners_port = _free_ports(2)
    with outside_world() as outside:
        outside.answers["POST /v1/runs"] = (202, {"run_id": "run-7", "outcome": "started"})
        outside.answers["GET /v1/runs/run-1"] = (200, {"run_id": "run-1", "waits": [{"kind": "approval"}]})
        outside.answers["GET /v1/runs/run-2"] = (200, {"run_id": "run-2", "waits": []})
        settings = folder / "settings.toml"
        settings.write_text(
            f"""
            [server]
            port = {port}
            runners_port = {runners_port}
            metrics_key_sha256 = "{hashlib.sha256(METRICS_KEY.encode()).hexdigest()}"
            [door]
            url = "http://127.0.0.1:{outside.http_port}"
            api_key = "elk_canary_door_key"
            [webhook]
            secret = "{SECRET}"
            token = "{TOKEN}"
            [slack]
            url = "http://127.0.0.1:{outside.http_port}/chat/canary-slack"
            [mail]
            host = "127.0.0.1"
            port = {outside.smtp_port}
            sender = "everloop@example.test"
            to = "team@example.test"
            [approval]
            remind_after_s = {REMIND_AFTER_S}
            """
        )
        settings.chmod(0o600)
        found = Edge(N8n(load_settings(settings), target), settings, outside, took_s)
        try:
            began = time.monotonic()
            found.start()
            took_s["provision and start"] = time.monotonic() - began
            # Their reminders are due when the tests below are through: n8n is killed and stopped in between.
            link = "http://127.0.0.1/v1/approvals/token-1"
            assert found.deliver("everloop-approve", message("waits for you", approval=link), "ask-1") == 200
            decided = message("was decided", approval=link)
            decided["data"]["run_id"] = "run-2"
            assert found.deliver("everloop-approve", decided, "ask-2") == 200
            yield found
        finally:
            found.n8n.stop()


def test_start_says_what_each_webhook_answers(edge: Edge) -> None:
    again = edge.start()
    for path in provision.SIGNED_PATHS:
        assert f"{path} with a signature: 400" in again.stdout
        assert f"{path} with a wrong one: 401" in again.stdout
        assert f"{path} with none: 401" in again.stdout
    assert "everloop-start with none: 401" in again.stdout


def test_an_approval_is_asked_for_with_its_link(edge: Edge) -> None:
    (chat,) = edge.outside.chat("approval: waits for you")
    assert "<http://127.0.0.1/v1/approvals/token-1|Look and decide>" in chat
    assert "What &lt;happened&gt; &amp; why." in chat
    (mail,) = edge.outside.mail("approval: waits for you")
    assert "http://127.0.0.1/v1/approvals/token-1" in mail


def test_an_approval_without_a_link_is_refused(edge: Edge) -> None:
    assert edge.deliver("everloop-approve", message("no link"), "ask-3") == 422
    assert not edge.outside.chat("no link")


@pytest.mark.parametrize(("severity", "num_mails"), [("info", 0), ("warning", 1), ("critical", 1)])
def test_severity_decides_who_is_told(severity: str, num_mails: int, edge: Edge) -> None:
    title = f"severity {severity}"
    assert edge.deliver("everloop-notify", message(title, severity), f"severity-{severity}") == 200
    assert len(edge.outside.chat(title)) == 1
    assert len(edge.outside.mail(title)) == num_mails


def test_a_delivery_that_comes_again_is_told_once(edge: Edge) -> None:
    assert [edge.deliver("everloop-notify", message("told once"), "twice-1") for _ in range(3)] == [200] * 3
    assert len(edge.outside.chat("told once")) == 1
    assert len(edge.outside.mail("told once")) == 1


def test_what_is_not_genuine_starts_nothing(edge: Edge) -> None:
    body = json.dumps(message("forged")).encode()
    key = WebhookSecret.parse(SECRET)
    token = {"x-everloop-token": TOKEN}
    good = sign_webhook(key, "f-1", body)
    wrong = sign_webhook(WebhookSecret(bytes(32)), "f-2", body)
    unsigned_jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJuOG4ifQ."
    before = edge.num_executions()
    for path in provision.SIGNED_PATHS:
        to = f"/webhook/{path}"
        refused = {
            "nothing": edge.send(to, body, {}),
            "no signature": edge.send(to, body, token),
            "no token": edge.send(to, body, good),
            "wrong token": edge.send(to, body, good, **{"x-everloop-token": "other"}),
            "wrong secret": edge.send(to, body, wrong | token),
            "altered body": edge.send(to, body + b" ", good | token),
            "other id": edge.send(to, body, good | token, **{"webhook-id": "f-9"}),
            "six minutes old": edge.send(to, body, sign_webhook(key, "f-3", body, now=time.time() - 360) | token),
            "six minutes ahead": edge.send(to, body, sign_webhook(key, "f-4", body, now=time.time() + 360) | token),
            "JWT without algorithm": edge.send(to, body, token, authorization=f"Bearer {unsigned_jwt}"),
        }
        assert {what: status for what, (status, _) in refused.items()} == dict.fromkeys(refused, 401), path
        for num_bytes in (1 << 20, 20 << 20):
            huge = b'{"a": "' + b"x" * num_bytes + b'"}'
            assert edge.send(to, huge, sign_webhook(key, "f-5", huge) | token)[0] == 413, f"{path}, {num_bytes}"
        gzip = {"content-encoding": "gzip"}
        assert edge.send(to, body, good | token | gzip)[0] == 400, path
        assert _answer(urllib.request.Request(f"{edge.url}{to}"))[0] == 404, "a GET is no delivery"
    assert edge.num_executions() == before
    assert not edge.outside.chat("forged")
    log = edge.n8n.log.read_text(errors="replace")
    for status in (401, 413):
        assert f"Refused a delivery to everloop-notify with {status}" in log, "whoever keeps n8n can see it"
    assert edge.deliver("everloop-notify", message("genuine"), "f-6") == 200, "the same path, with all that it asks for"
    assert edge.num_executions() == before + 1


def test_a_signed_request_starts_a_run(edge: Edge) -> None:
    body = json.dumps({"recipe": "nano", "reason": "new pages"}).encode()
    headers = sign_webhook(WebhookSecret.parse(SECRET), "run-key-1", body) | {"x-everloop-token": TOKEN}
    status, answer = edge.send("/webhook/everloop-run", body, headers)
    assert (status, json.loads(answer)) == (202, {"run_id": "run-7", "outcome": "started"})
    asked, posted = edge.outside.door("/v1/runs")[-1]
    assert posted == {"recipe": "nano", "overrides": {}, "reason": "new pages"}
    assert asked["authorization"] == "Bearer elk_canary_door_key"
    assert asked["idempotency-key"] == "run-key-1", "the same delivery, the same run"


def test_a_refusal_of_the_door_comes_through(edge: Edge) -> None:
    before = edge.outside.answers["POST /v1/runs"]
    edge.outside.answers["POST /v1/runs"] = (409, {"detail": "run r0 holds the alias"})
    try:
        body = b'{"recipe": "nano"}'
        headers = sign_webhook(WebhookSecret.parse(SECRET), "run-key-2", body) | {"x-everloop-token": TOKEN}
        status, answer = edge.send("/webhook/everloop-run", body, headers)
        assert (status, json.loads(answer)["detail"]) == (409, "run r0 holds the alias")
    finally:
        edge.outside.answers["POST /v1/runs"] = before


def test_a_person_starts_a_run_by_the_form(edge: Edge) -> None:
    form = f"{edge.url}/form/everloop-start"
    pair = f"everloop:{(edge.n8n.state / 'form_password').read_text()}"
    basic = {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    fields = "".join(
        f'--edge\r\ncontent-disposition: form-data; name="field-{number}"\r\n\r\n{value}\r\n'
        for number, value in enumerate(("nano", "from the form"))
    )
    body = f"{fields}--edge--\r\n".encode()
    kind = {"content-type": "multipart/form-data; boundary=edge"}
    known = len(edge.outside.door("/v1/runs"))
    assert _answer(urllib.request.Request(form, data=body, headers=kind))[0] == 401
    assert len(edge.outside.door("/v1/runs")) == known
    status, answer = _answer(urllib.request.Request(form, data=body, headers=kind | basic))
    assert status == 200
    until(lambda: len(edge.outside.door("/v1/runs")) == known + 1)
    asked, posted = edge.outside.door("/v1/runs")[-1]
    assert posted == {"recipe": "nano", "reason": "from the form"}
    assert asked["idempotency-key"].startswith("form-")
    assert json.loads(answer) == {"formSubmittedText": "started: run run-7"}
    # Of what ended well nothing is kept but a row that is marked as deleted.
    kept = "SELECT status FROM execution_entity WHERE workflowId = 'everloopStartRun' AND deletedAt IS NULL"
    until(lambda: edge.ask(kept) == [])


def test_a_sink_that_fails_is_not_accepted_and_is_reported(edge: Edge) -> None:
    chat = "POST /chat/canary-slack"
    edge.outside.answers[chat] = (503, {})
    try:
        assert edge.deliver("everloop-notify", message("sink down"), "sink-1") >= 500
        headers, notice = until(lambda: edge.outside.door("/v1/hooks/notify"))[-1]
        assert notice["event"] == "notify.failed"
        assert notice["facts"]["flow"] == "everloopNotify01"
        assert notice["facts"]["node"] == "Slack"
        assert headers["idempotency-key"].startswith("n8n.everloopNotify01.Slack.")
        assert "canary-slack" not in json.dumps(notice), "the chat's address is a secret"
    finally:
        del edge.outside.answers[chat]
    assert edge.deliver("everloop-notify", message("sink down"), "sink-1") == 200
    assert len(edge.outside.mail("sink down")) == 1


@pytest.mark.parametrize(
    ("sink", "num_chats", "num_mails"),
    [
        # The chat's receipt was written before: the next delivery goes to the mail server only.
        pytest.param("mail", 1, 2, id="after-the-chat"),
        pytest.param("chat", 2, 1, id="before-anything"),
    ],
)
def test_killed_between_post_and_receipt_tells_that_sink_twice_and_loses_nothing(
    sink: str, num_chats: int, num_mails: int, edge: Edge
) -> None:
    """Killed while a sink has taken the message and not answered."""
    title, outside = f"killed at {sink}", edge.outside
    hold = {"chat": outside.hold_chat, "mail": outside.hold_mail}[sink]
    hold.set()
    outside.held.clear()
    outside.released.clear()
    body = json.dumps(message(title)).encode()
    with _sent(edge, body, sign_webhook(WebhookSecret.parse(SECRET), f"kill-{sink}", body)):
        assert outside.held.wait(60)
        edge.kill()
        hold.clear()
        outside.released.set()
    edge.start()
    assert edge.deliver("everloop-notify", message(title), f"kill-{sink}") == 200
    assert (len(outside.chat(title)), len(outside.mail(title))) == (num_chats, num_mails)


def _sent(edge: Edge, body: bytes, headers: dict[str, str]) -> Any:
    """A delivery whose answer nobody waits for."""
    host, port = edge.url.removeprefix("http://").split(":")
    sender = socket.create_connection((host, int(port)))
    lines = [
        "POST /webhook/everloop-notify HTTP/1.1",
        f"host: {host}:{port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in (headers | {"x-everloop-token": TOKEN}).items()),
    ]
    sender.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return closing(sender)


def test_down_for_ten_minutes_loses_nothing_and_tells_all_once(edge: Edge, tmp_path: Path) -> None:
    """The loop's own outbox, on a clock that is moved on by ten minutes."""
    store = open_store(f"file://{tmp_path}/storage")
    clock = [store.now()]
    receiver = Receiver.model_validate(
        {
            "name": "people",
            "url": f"{edge.url}/webhook/everloop-notify",
            "secret": SECRET,
            "headers": {"x-everloop-token": TOKEN},
        }
    )
    outbox = Dispatcher(store, [receiver], now=lambda: clock[0])
    titles = [f"while down {number}" for number in range(5)]
    edge.n8n.stop()
    for title in titles:
        post_notice(store, {"event": "run.failed", "severity": "warning", "title": title, "text": "x"}, title)
    for _ in range(3):
        outbox.round()
        assert outbox.wait(60)
        clock[0] += 10
    assert not edge.outside.chat("while down")
    edge.start()
    clock[0] += TEN_MINUTES_S
    until(lambda: _round(outbox, clock) and len(edge.outside.mail("while down")) >= len(titles))
    for _ in range(2):
        _round(outbox, clock)
    assert sorted(edge.outside.chat("while down")) == sorted(set(edge.outside.chat("while down")))
    assert [len(edge.outside.chat(title)) for title in titles] == [1] * len(titles)
    assert [len(edge.outside.mail(title)) for title in titles] == [1] * len(titles)


def _round(outbox: Dispatcher, clock: list[float]) -> bool:
    outbox.round()
    assert outbox.wait(60)
    clock[0] += TEN_MINUTES_S
    return True


def test_private_addresses_are_out_of_reach(edge: Edge) -> None:
    """The chat's address leads inside: to the metadata of a cloud, and to a port of this machine that does listen."""
    with socket.create_server(("127.0.0.2", 0)) as listener:
        listener.settimeout(0.2)
        here = f"http://127.0.0.2:{listener.getsockname()[1]}/"
        for number, url in enumerate(("http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", here)):
            _set_chat(edge, url)
            assert edge.deliver("everloop-notify", message("inside", "info"), f"ssrf-{number}") >= 500
            told = until(
                lambda: [body for _, body in edge.outside.door("/v1/hooks/notify") if "restricted" in body["text"]]
            )
            assert len(told) >= 1
            edge.outside.posts = [post for post in edge.outside.posts if post[0] != "/v1/hooks/notify"]
        with pytest.raises(TimeoutError):
            listener.accept()
    _set_chat(edge, edge.n8n.settings.slack.url if edge.n8n.settings.slack else "")
    assert edge.deliver("everloop-notify", message("outside again", "info"), "ssrf-9") == 200
    assert len(edge.outside.chat("outside again")) == 1


def _set_chat(edge: Edge, url: str) -> None:
    credential = {"id": "everloopSlack001", "name": "Everloop Slack", "type": "slackUrl", "data": {"url": url}}
    path = edge.n8n.state / "credential.json"
    path.write_text(json.dumps([credential]))
    assert "imported 1 credential" in edge.n8n.command("import:credentials", f"--input={path}")
    path.unlink()


@pytest.mark.slow
def test_provisioned_twice_is_provisioned_once(edge: Edge) -> None:
    def held() -> tuple[Any, ...]:
        return (
            edge.ask("SELECT id, name, active FROM workflow_entity ORDER BY id"),
            edge.ask("SELECT id, name, type FROM credentials_entity ORDER BY id"),
            edge.ask("SELECT webhookPath, method, workflowId FROM webhook_entity ORDER BY webhookPath"),
        )

    before = held()
    assert {row[0] for row in before[0]} == {provision.load_flow(name)["id"] for name in provision.FLOWS}
    assert len(before[1]) == 5
    (edge.n8n.state / "provisioned").unlink()
    edge.start()
    assert held() == before


@pytest.mark.slow
def test_another_encryption_key_is_refused_loudly(edge: Edge) -> None:
    key = edge.n8n.state / "encryption_key"
    right = key.read_text()
    edge.n8n.stop()
    key.write_text("0" * 64)
    try:
        failed = edge.start(check=False)
        assert failed.returncode == 1
        assert "Mismatching encryption keys" in failed.stderr
        assert edge.n8n.process() is None
    finally:
        key.write_text(right)
    edge.start()


@pytest.mark.slow
def test_a_wait_outlives_kills_and_restarts(edge: Edge) -> None:
    """The reminder of the request that the first lines of this module sent. Nobody reminds of what was decided."""
    until(lambda: edge.outside.chat("Reminder: [Everloop] approval: waits for you"), REMIND_AFTER_S + 90)
    until(lambda: edge.outside.mail("Nobody has decided yet"))
    assert len(edge.outside.chat("Reminder: [Everloop] approval: waits for you")) == 1
    until(lambda: edge.outside.door("/v1/runs/run-2"))
    assert not edge.outside.chat("Reminder: [Everloop] approval: was decided")


def test_metrics_are_told_to_whoever_has_the_key(edge: Edge) -> None:
    def told(**headers: str) -> tuple[int, bytes]:
        return _answer(urllib.request.Request(f"{edge.url}/metrics", headers=headers))

    for refused in ({}, {"authorization": "Bearer other"}, {"authorization": METRICS_KEY}):
        status, body = told(**refused)
        assert (status, b"n8n_" in body) == (401, False), refused
    status, body = told(authorization=f"Bearer {METRICS_KEY}")
    assert status == 200
    assert b"\nn8n_active_workflow_count 4\n" in body


def test_no_secret_is_in_the_log_or_the_environment(edge: Edge, capsys: pytest.CaptureFixture[str]) -> None:
    process = edge.n8n.process()
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode()
    log = edge.n8n.log.read_text(errors="replace")
    for secret in ("canary", SECRET, TOKEN, (edge.n8n.state / "encryption_key").read_text()):
        assert secret not in log
        assert secret not in environment
    database = (edge.n8n.state / ".n8n" / "database.sqlite").read_bytes()
    assert b"canary-slack" not in database, "credentials are stored encrypted"
    group = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _group(path) == process.pid]
    pss_mib = sum(_pss_kib(pid) for pid in group) / 1024
    with capsys.disabled():
        seconds = ", ".join(f"{what} {took:.1f} s" for what, took in edge.took_s.items())
        print(f"\nn8n: {seconds}, {pss_mib:.0f} MiB in {len(group)} processes")
    assert pss_mib < 2048


def _group(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[2])
    except OSError:
        return -1


def _pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
