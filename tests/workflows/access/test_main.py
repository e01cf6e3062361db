from __future__ import annotations

from pathlib import Path

import pytest

from workflows.access import AuditLog, key_digest, signing_key
from workflows.access.__main__ import main
from workflows.log import open_store


def test_the_policies_of_the_project_pass_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "four-eyes-promote" in capsys.readouterr().out


def test_a_wrong_policy_fails_the_check_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "everloop.cedarschema").write_text("entity Person;\n")
    (tmp_path / "bad.cedar").write_text('\n@id("a") permit (principal, action == Action::"fly", resource);')
    assert main(["check", str(tmp_path)]) == 2
    assert "bad.cedar:2: " in capsys.readouterr().err


def test_the_audit_log_is_verified_with_the_printed_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, path = f"file://{tmp_path}/storage", tmp_path / "audit.key"
    store = open_store(storage)
    with AuditLog(store, "w", signing_key(path)) as audit:
        audit.event("first")
        audit.event("second")
    assert main(["public-key", str(path)]) == 0
    key = capsys.readouterr().out.strip()
    assert main(["verify", "--storage", storage, "--key", key]) == 0
    assert "audit/w\t2 records\t2 under a checkpoint" in capsys.readouterr().out
    store.delete("audit/w/00000000000000000001.json")
    assert main(["verify", "--storage", storage, "--key", key]) == 1
    assert "truncated\taudit/w" in capsys.readouterr().out


def test_the_public_key_of_the_environment_is_printed_where_no_file_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "audit.key"
    public = signing_key(path).public.hex
    monkeypatch.setenv("EVERLOOP_AUDIT_KEY", path.read_text())
    assert main(["public-key"]) == 0
    assert capsys.readouterr().out.strip() == public
    monkeypatch.delenv("EVERLOOP_AUDIT_KEY")
    assert main(["public-key"]) == 2
    assert "EVERLOOP_AUDIT_KEY: not set, and no file was named" in capsys.readouterr().err


def test_a_new_key_comes_with_the_digest_for_the_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-key"]) == 0
    _, key, _, digest = capsys.readouterr().out.split()
    assert key_digest(key) == digest
