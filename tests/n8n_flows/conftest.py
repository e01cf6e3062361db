"""Settings as a person would write them, and n8n's programs as far as they can be had without starting it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from n8n_flows.install import Installation
from n8n_flows.server import N8n
from n8n_flows.settings import load_settings

SETTINGS = """
[door]
api_key = "elk_key"
[webhook]
secret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
[slack]
url = "https://hooks.slack.com/services/T/B/x"
[mail]
host = "mail.example.org"
sender = "everloop@example.org"
to = "team@example.org"
"""


@pytest.fixture
def settings_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str = SETTINGS) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        path.chmod(0o600)
        return path

    return write


@pytest.fixture
def n8n(settings_file: Callable[[str], Path], tmp_path: Path) -> N8n:
    """Not started, and not installed."""
    found = N8n(load_settings(settings_file(SETTINGS)), Installation(tmp_path / "installed"))
    found.state.mkdir()
    return found
