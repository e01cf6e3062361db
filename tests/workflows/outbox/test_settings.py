"""Settings: what is wrong is named, and no secret is in the message."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.workflows.outbox.conftest import SECRET
from workflows.log import Notification
from workflows.outbox import OutboxSettings, Receiver, SettingsError, load_outbox_settings

GOOD = f"""
public_url = "https://door.example.org"

[[notify]]
url = "https://n8n.example.org/webhook/everloop-notify"
secret = "{SECRET}"
events = ["*", "!approval.requested"]
headers = {{ "x-everloop-token" = "private-token" }}

[[notify]]
name = "approvals"
url = "https://n8n.example.org/webhook/everloop-approve"
secret = "{SECRET}"
events = ["approval.requested"]
min_severity = "warning"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_a_file_is_read_and_receivers_without_a_name_get_one(path: Path) -> None:
    path.write_text(GOOD + "\n")
    found = load_outbox_settings(path)
    first, second = found.notify
    assert first.name.startswith("n8n.example.org-")
    assert len(first.name) == len("n8n.example.org-") + 6
    assert second.name == "approvals"
    assert found.public_url == "https://door.example.org"
    assert "private-token" not in repr(found)
    assert SECRET not in repr(found)


def test_a_relative_directory_of_principals_counts_from_the_file(path: Path) -> None:
    path.write_text('principals = "team.toml"')
    assert load_outbox_settings(path).principals == path.parent / "team.toml"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('min_severity = "warning"', 'min_severity = "loud"', "notify.1.min_severity"),
        ("\nurl = ", "\nuri = ", "notify.0.url"),
        ('"https://n8n.example.org/webhook/everloop-approve"', '"ftp://n8n.example.org/x"', "http:// or https://"),
        ('"https://n8n.example.org/webhook/everloop-approve"', '"https://u:p@n8n.example.org/x"', "without user"),
        ('"x-everloop-token"', '"webhook-signature"', "none that every delivery has"),
        ('name = "approvals"', 'name = "two words"', "notify.1.name"),
        ('public_url = "https://door.example.org"', 'public_url = "door"', "public_url"),
        ('public_url = "https://door.example.org"', "surplus = 1", "surplus"),
        ('events = ["approval.requested"]', "events = []", "notify.1.events"),
        ("[[notify]]", "[[notify]", "settings.toml"),
    ],
)
def test_what_is_wrong_is_named(path: Path, before: str, after: str, told: str) -> None:
    path.write_text(GOOD.replace(before, after, 1))
    with pytest.raises(SettingsError) as refused:
        load_outbox_settings(path)
    assert told in str(refused.value)
    assert "private-token" not in str(refused.value)
    assert SECRET not in str(refused.value)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_a_weak_secret_and_two_receivers_of_one_name_are_refused(path: Path) -> None:
    path.write_text(GOOD.replace(SECRET, "whsec_c2hvcnQ=", 1))
    with pytest.raises(SettingsError, match=r"notify\.0\.secret.*24 to 64 bytes"):
        load_outbox_settings(path)
    twice = {"name": "a", "url": "http://127.0.0.1/x", "secret": SECRET}
    with pytest.raises(ValueError, match="two receivers are named 'a'"):
        OutboxSettings.model_validate({"notify": [twice, twice]})


def test_a_file_that_is_not_there_or_closed_is_named(path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_outbox_settings(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="utf-8"):
        load_outbox_settings(path)


@pytest.mark.parametrize(
    ("events", "event", "wanted"),
    [
        (["*"], "run.failed", True),
        (["run.*"], "run.failed", True),
        (["run.*"], "canary.held", False),
        (["!run.*"], "canary.held", True),
        (["!run.*"], "run.failed", False),
        (["*", "!approval.requested"], "approval.requested", False),
        (["drift.alarm"], "drift.alarm", True),
    ],
)
def test_patterns_choose_events(events: list[str], event: str, wanted: bool) -> None:
    receiver = Receiver(name="r", url="http://127.0.0.1/x", secret=SECRET, events=events)
    assert receiver.wants(Notification(event=event, severity="info", title="t", text="x")) is wanted
