from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from n8n_flows.install import Installation, installation
from n8n_flows.server import N8n, Process, write_private
from n8n_flows.settings import Postgres, Server


def test_a_process_is_not_mistaken_for_a_later_one_with_its_id() -> None:
    me = Process.of(os.getpid())
    assert me is not None
    assert me.is_alive
    assert not replace(me, started_at=me.started_at - 1).is_alive


def test_a_process_that_ended_is_dead_before_it_is_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Process.of(child.pid) is None
    child.wait()


@pytest.mark.parametrize("text", ["", "{}", "[]", "5", '{"pid": 1}', '{"pid": 1, "started_at": 0}'])
def test_a_pid_file_that_tells_nothing_means_that_nothing_runs(text: str, n8n: N8n) -> None:
    (n8n.state / "n8n.pid").write_text(text)
    assert n8n.process() is None
    assert n8n.stop() is False


def test_a_foreign_process_is_never_stopped(n8n: N8n) -> None:
    me = Process.of(os.getpid())
    assert me is not None
    (n8n.state / "n8n.pid").write_text(json.dumps({"pid": me.pid, "started_at": me.started_at - 1}))
    assert n8n.stop() is False


def test_a_secret_is_made_once_and_a_given_one_wins(n8n: N8n) -> None:
    made = n8n.secret("form_password")
    assert n8n.secret("form_password") == made
    assert n8n.secret("form_password", "given") == "given"
    assert (n8n.state / "form_password").stat().st_mode & 0o077 == 0


def test_a_private_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["secret"]


@pytest.fixture
def with_node(n8n: N8n, monkeypatch: pytest.MonkeyPatch) -> N8n:
    """With the environment of the server, but for the hash of the owner's password, which takes n8n's libraries."""
    monkeypatch.setattr(N8n, "_owner_hash", lambda _: "$2b$10$hash")
    return n8n


def test_no_secret_of_the_settings_or_the_caller_is_in_the_environment(
    with_node: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-the-caller")
    settings = replace(with_node.settings, postgres=Postgres(host="db", password="canary-of-the-database"))
    told = json.dumps(N8n(settings, with_node.installed).environment())
    for secret in (
        "canary",
        "elk_key",
        "AAECAwQF",
        "hooks.slack.com",
        (with_node.state / "encryption_key").read_text(),
    ):
        assert secret not in told


def test_the_encryption_key_stays_the_same_without_a_newline(with_node: N8n) -> None:
    with_node.environment()
    key = (with_node.state / "encryption_key").read_text()
    with_node.environment()
    assert (with_node.state / "encryption_key").read_text() == key == key.strip()
    given = replace(with_node.settings, server=Server(encryption_key="k" * 32))
    N8n(given, with_node.installed).environment()
    assert (with_node.state / "encryption_key").read_text() == "k" * 32


def test_what_may_be_dangerous_is_off(with_node: N8n) -> None:
    environment = with_node.environment()
    assert environment["N8N_LISTEN_ADDRESS"] == "127.0.0.1"
    assert environment["NODE_ENV"] == "production"
    assert environment["N8N_SSRF_PROTECTION_ENABLED"] == "true"
    assert environment["N8N_SSRF_ALLOWED_IP_RANGES"] == "127.0.0.1/32"
    assert environment["N8N_BLOCK_ENV_ACCESS_IN_NODE"] == "true"
    assert environment["N8N_DIAGNOSTICS_ENABLED"] == "false"
    assert environment["N8N_PUBLIC_API_DISABLED"] == "true"
    assert "n8n-nodes-base.executeCommand" in json.loads(environment["NODES_EXCLUDE"])


def test_metrics_are_for_this_machine_or_for_whoever_has_the_key(with_node: N8n) -> None:
    def told(**server: str) -> dict[str, str]:
        return N8n(replace(with_node.settings, server=Server(**server)), with_node.installed).environment()

    alone, open_to_all, guarded = told(), told(host="0.0.0.0"), told(host="0.0.0.0", metrics_key_sha256="a" * 64)
    assert (alone["N8N_METRICS"], open_to_all["N8N_METRICS"], guarded["N8N_METRICS"]) == ("true", "false", "true")
    assert "EXTERNAL_HOOK_FILES" not in alone
    assert Path(guarded["EXTERNAL_HOOK_FILES"]).name == "guard_metrics.js"
    assert guarded["EVERLOOP_METRICS_KEY_SHA256"] == "a" * 64


def test_an_installation_has_the_name_of_its_lock(tmp_path: Path) -> None:
    found = installation({"XDG_CACHE_HOME": str(tmp_path)})
    assert found.folder.parent == tmp_path / "everloop"
    assert found.folder.name.startswith("n8n-2.41.1-")
    assert not found.is_complete
    assert installation({"EVERLOOP_N8N": "/opt/n8n"}) == Installation(Path("/opt/n8n"))


def test_the_start_script_explains_itself() -> None:
    script = Path(__file__).resolve().parents[2] / "n8n_flows" / "start"
    told = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True)
    assert "n8n_flows/start stop --settings FILE" in told.stdout
    without = subprocess.run([str(script), "start"], capture_output=True, text=True, check=False)
    assert without.returncode == 2
