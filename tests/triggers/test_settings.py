from __future__ import annotations

from pathlib import Path

import pytest

from triggers.settings import Settings, load_settings
from workflows.settings_file import SettingsError

STRONG = "whsec_" + "bjg0" * 8


def test_settings_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "door.toml").write_text(
        f'storage = "file:///s"\nport = 9000\n[webhook_secrets]\n"Service::n8n" = ["{STRONG}"]\n'
    )
    settings = load_settings(tmp_path / "door.toml")
    assert (settings.storage, settings.port, settings.host) == ("file:///s", 9000, "127.0.0.1")
    assert STRONG not in repr(settings)
    assert STRONG not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("port = 9000", "storage"),
        ('storage = "s"\nport = 0', "port"),
        ('storage = "s"\nprot = 1', "prot"),
        ('storage = "s"\nmax_body_bytes = 1', "max_body_bytes"),
        ('storage = "s"\n[webhook_secrets]\na = []', "webhook_secrets"),
        ('storage = "s"\n[webhook_secrets]\na = ["c2VjcmV0"]', "24 to 64"),
        ("storage = ", "door.toml"),
        ('storage = "s"\n[aliases.a]\nrecipe = "nano"\noverrides = ["deploy.weights=[2]"]', "must all lie in"),
    ],
)
def test_what_is_wrong_is_named_without_the_secret(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "door.toml").write_text(text)
    with pytest.raises(SettingsError, match=reason) as caught:
        load_settings(tmp_path / "door.toml")
    assert "c2VjcmV0" not in str(caught.value)


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())
