"""The services' configuration: defaults, changes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.services.config import load_config
from workflows.services.errors import ServicesConfigError


def changed(folder: Path, text: str) -> Path:
    path = folder / "changes.toml"
    path.write_text(text)
    return path


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    config = load_config(changed(tmp_path, "[ports]\nmlflow = 5001\n[minio]\nbucket = 'other'\n"))

    assert (config.ports.mlflow, config.minio.bucket) == (5001, "other")
    assert config.model_copy(update={"ports": None, "minio": None}) == load_config().model_copy(
        update={"ports": None, "minio": None}
    )
    assert config.ports.minio == load_config().ports.minio


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[ports]\nminio = 5000\n", "mlflow and minio have the same port 5000"),
        ("[ports]\nminio = 70000\n", "ports.minio"),
        ("[ports]\nredis = 6379\n", "ports.redis"),
        ("[minio]\nbucket = 'Not_A_Bucket'\n", "minio.bucket"),
        ("[minio]\nprefix = '../up'\nbucket = 'a/b'\n", "minio.bucket"),
        ("[prometheus]\nretention = 'long'\n", "prometheus.retention"),
        ("[waits]\nstop_s = 0\n", "waits.stop_s"),
        ("[people]\nslack_url = 'hooks.slack.com'\n", "people.slack_url"),
        ("ports = 1", "ports"),
        ("[ports", "changes.toml"),
    ],
)
def test_what_breaks_a_rule_is_named(tmp_path: Path, text: str, rule: str) -> None:
    with pytest.raises(ServicesConfigError, match=rule):
        load_config(changed(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServicesConfigError, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml")
