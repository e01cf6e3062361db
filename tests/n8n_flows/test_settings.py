from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from n8n_flows import settings
from n8n_flows.errors import SettingsInvalid
from tests.n8n_flows.conftest import SETTINGS


def test_the_example_names_every_key_and_only_those(settings_file: Callable[[str], Path]) -> None:
    text = (Path(settings.__file__).parent / "settings.example.toml").read_text()
    text = text.replace("whsec_...", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    head, _, postgres = text.partition("# [postgres]")
    lines = "\n".join(line.removeprefix("# ") for line in postgres.splitlines()[1:])
    found = settings.load_settings(settings_file(f"{head}[postgres]\n{lines}\n"))
    assert found.slack
    assert found.mail
    assert found.postgres
    for section in (found.server, found.door, found.webhook, found.slack, found.mail, found.people, found.approval):
        for name in section.__slots__:
            assert f"\n{name} = " in head, name
    for name in found.postgres.__slots__:
        assert f"{name} = " in lines, name


def test_relative_state_counts_from_the_file(settings_file: Callable[[str], Path], tmp_path: Path) -> None:
    assert settings.load_settings(settings_file(SETTINGS)).state == tmp_path / "n8n"


def test_secrets_appear_in_no_representation(settings_file: Callable[[str], Path]) -> None:
    told = repr(settings.load_settings(settings_file(SETTINGS)))
    for secret in ("elk_key", "AAECAwQF", "hooks.slack.com"):
        assert secret not in told


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ('api_key = "elk_key"', 'api_key = ""', "door.api_key: must not be empty"),
        ('api_key = "elk_key"', "api_key = 5", "door.api_key: a str"),
        ('api_key = "elk_key"', "", "door: missing 1 required keyword-only argument: 'api_key'"),
        ('secret = "whsec_AAEC', 'secret = "whsec_!!!!', "webhook.secret: whsec_ and base64 of 24 to 64 bytes"),
        ("[slack]", "[slakc]", "slakc: unknown"),
        ("[mail]", "[mail]\nprot = 25", "mail.prot: unknown"),
        ("[mail]", "[mail]\ntls = 1", "mail.tls: a bool"),
        ("[mail]", "[approval]\nremind_after_s = 30\n[mail]", "approval.remind_after_s: 65"),
        ("[mail]", "[server]\nport = 5679\n[mail]", "two different ports"),
        ("[mail]", '[server]\nmetrics_key_sha256 = "key"\n[mail]', "server.metrics_key_sha256: a SHA-256"),
        ("[door]", '[door]\nurl = "ftp://x"', "door.url: an http(s) address"),
    ],
)
def test_a_broken_rule_is_named(old: str, new: str, rule: str, settings_file: Callable[[str], Path]) -> None:
    assert old in SETTINGS
    with pytest.raises(SettingsInvalid) as told:
        settings.load_settings(settings_file(SETTINGS.replace(old, new)))
    assert rule in str(told.value)


def test_nobody_to_tell_is_refused(settings_file: Callable[[str], Path]) -> None:
    with pytest.raises(SettingsInvalid, match="slack or mail"):
        settings.load_settings(settings_file(SETTINGS.partition("[slack]")[0]))


def test_a_file_that_others_can_read_is_refused(settings_file: Callable[[str], Path]) -> None:
    path = settings_file(SETTINGS)
    path.chmod(0o644)
    with pytest.raises(SettingsInvalid, match="0600"):
        settings.load_settings(path)
