from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from n8n_flows import provision
from n8n_flows.errors import ProvisionFailed
from n8n_flows.server import N8n
from workflows.access import WebhookSecret, sign_webhook

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.mark.parametrize("name", provision.FLOWS)
def test_nothing_is_left_to_fill_and_no_secret_is_filled_in(name: str, n8n: N8n) -> None:
    text = json.dumps(provision.render_flow(name, n8n.settings))
    for secret in ("elk_key", "AAECAwQF", "hooks.slack.com"):
        assert secret not in text


def test_the_wait_becomes_a_number(n8n: N8n) -> None:
    flow = provision.render_flow("request_approval", n8n.settings)
    (wait,) = (node for node in flow["nodes"] if node["name"] == "Wait")
    assert wait["parameters"]["amount"] == 14_400


def test_a_sink_that_is_not_configured_is_never_due(n8n: N8n) -> None:
    flow = provision.render_flow("notify_people", replace(n8n.settings, mail=None))
    (due,) = (node for node in flow["nodes"] if node["name"] == "Mail is due")
    assert "{{ false && " in json.dumps(due)
    # n8n starts no flow with a node that lacks what it requires, due or not.
    (mail,) = (node for node in flow["nodes"] if node["name"] == "Mail")
    assert mail["parameters"]["fromEmail"]
    assert mail["parameters"]["toEmail"]


def test_a_mark_that_nothing_fills_is_refused(monkeypatch: pytest.MonkeyPatch, n8n: N8n) -> None:
    monkeypatch.setattr(provision, "load_flow", lambda _: {"id": "x", "text": "__UNHEARD_OF__"})
    with pytest.raises(ProvisionFailed, match="__UNHEARD_OF__"):
        provision.render_flow("notify_people", n8n.settings)


@pytest.mark.parametrize("body", [b"", b"{}", "ein Stück".encode(), bytes(range(256))])
def test_a_delivery_is_signed_as_the_loop_signs(body: bytes) -> None:
    ours = provision.signature(SECRET, body, delivery_id="e-1", now_s=1_764_000_000)
    assert ours == sign_webhook(WebhookSecret.parse(SECRET), "e-1", body, now=1_764_000_000)


def test_what_has_not_changed_is_not_imported_again(n8n: N8n, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, ...]] = []

    def command(_: N8n, *words: str) -> str:
        said.append(words)
        imported = {"import:credentials": "imported 5 credentials", "import:workflow": "imported 4 workflows"}
        return imported.get(words[0], "\n".join(provision.load_flow(name)["id"] for name in provision.FLOWS))

    monkeypatch.setattr(N8n, "command", command)
    assert provision.provision(n8n) is True
    published = [words[1] for words in said if words[0] == "publish:workflow"]
    assert published[0] == "--id=everloopErrors01", "the flow that reports comes first"
    assert len(published) == 4
    assert not (n8n.state / "import").exists(), "the credentials do not stay there in the clear"
    said.clear()
    assert provision.provision(n8n) is False
    assert said == []


@pytest.mark.parametrize("broken", ["import:credentials", "import:workflow", "list:workflow"])
def test_a_command_that_did_nothing_is_found_out(broken: str, n8n: N8n, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Callable[[], str]] = {
        "import:credentials": lambda: "Successfully imported 5 credentials.",
        "import:workflow": lambda: "Successfully imported 4 workflows.",
        "list:workflow": lambda: "\n".join(provision.load_flow(name)["id"] for name in provision.FLOWS),
    }
    answers[broken] = lambda: "nothing to do"

    def command(_: N8n, *words: str) -> str:
        return answers.get(words[0], lambda: "")()

    monkeypatch.setattr(N8n, "command", command)
    with pytest.raises(ProvisionFailed):
        provision.provision(n8n)
    assert not (n8n.state / "provisioned").exists()
    assert not (n8n.state / "import").exists()


def test_the_mark_of_what_was_provisioned_tells_no_secret(n8n: N8n, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(
        N8n,
        "command",
        lambda _, *words: (
            "imported 5 credentials imported 4 workflow\n"
            + "\n".join(provision.load_flow(name)["id"] for name in provision.FLOWS)
        ),
    )
    provision.provision(n8n)
    assert all(path.stat().st_mode & 0o077 == 0 for path in n8n.state.iterdir() if path.is_file())
    assert "elk_key" not in (n8n.state / "provisioned").read_text()
