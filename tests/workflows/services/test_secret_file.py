"""Secrets are made once, completed, and read by their owner alone."""

from __future__ import annotations

import stat
import threading
import tomllib
from pathlib import Path

import pytest

from workflows.access import WebhookSecret, load_directory
from workflows.services.config import load_config
from workflows.services.errors import ServicesConfigError
from workflows.services.principals_file import write_principals
from workflows.services.secret_file import ROLES, SIGNERS, Secrets, load_secrets, owner
from workflows.services.site import open_site


def test_they_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"

    assert load_secrets(path) == load_secrets(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_two_are_the_same(tmp_path: Path) -> None:
    found = load_secrets(tmp_path / "secrets.toml")
    values = [*found.minio_root, *found.minio_loop, *found.api_keys.values(), *found.webhooks.values(), found.n8n_token]

    assert len(set(values)) == len(values)
    assert set(found.api_keys) == {owner(), *ROLES}
    assert all(WebhookSecret.parse(found.webhooks[name]) for name in SIGNERS)


def test_what_is_missing_is_added_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"
    before = load_secrets(path)
    text = path.read_text()
    path.write_text("\n".join(line for line in text.splitlines() if "Service::n8n" not in line))
    after = load_secrets(path)

    assert after.webhooks["Service::n8n"] != before.webhooks["Service::n8n"]
    assert after.minio_loop == before.minio_loop
    assert tomllib.loads(path.read_text()).keys() == tomllib.loads(text).keys()


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"
    load_secrets(path)
    path.chmod(0o640)

    with pytest.raises(ServicesConfigError, match="others may read it"):
        load_secrets(path)


def test_a_broken_file_is_named_and_none_of_it_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "secrets.toml"
    path.write_text("[minio]\nroot_password = hush-hush\n")
    path.chmod(0o600)

    with pytest.raises(ServicesConfigError, match=r"secrets\.toml") as caught:
        load_secrets(path)
    assert "hush" not in str(caught.value)


def test_they_appear_in_no_representation(tmp_path: Path) -> None:
    found = load_secrets(tmp_path / "secrets.toml")

    assert found.minio_root[1] not in repr(found)


def test_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    found: list[Secrets] = []
    threads = [threading.Thread(target=lambda: found.append(load_secrets(tmp_path / "s.toml"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(each == found[0] for each in found)


def test_the_directory_of_principals_knows_each_key_by_its_digest(tmp_path: Path) -> None:
    site = open_site(load_config(), tmp_path, frozenset({"triggers"}))
    path = write_principals(site)
    directory = load_directory(path)

    for subject, key in site.secrets.api_keys.items():
        found = directory.by_api_key(key)
        assert found is not None
        assert found.subject == subject
        assert found.roles == ROLES.get(subject, ("admin",))
        assert key not in path.read_text()
