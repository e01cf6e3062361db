from __future__ import annotations

import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workflows.access import SigningKeyError, VerifyingKey, audit_key, signing_key


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "audit.key"
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: signing_key(path).public.id, range(8)))
    assert len(ids) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["audit.key"]


def test_a_signature_is_accepted_from_its_key_alone(tmp_path: Path) -> None:
    key, other = signing_key(tmp_path / "a"), signing_key(tmp_path / "b")
    signature = key.sign(b"message")
    assert VerifyingKey(key.public.hex).accepts(signature, b"message")
    assert not key.public.accepts(signature, b"massage")
    assert not other.public.accepts(signature, b"message")
    for malformed in ("", "not base64", "AAAA", signature[:-4], "\ud800"):
        assert not key.public.accepts(malformed, b"message")


@pytest.mark.parametrize(
    ("content", "mode"), [(b"", 0o600), (b"zz" * 32, 0o600), (b"00" * 31, 0o600), (b"00" * 33, 0o600)]
)
def test_a_file_that_holds_no_key_is_refused(content: bytes, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match="not a key"):
        signing_key(path)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    signing_key(path)
    path.chmod(0o640)
    with pytest.raises(SigningKeyError, match="0640"):
        signing_key(path)


def test_a_link_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    signing_key(tmp_path / "real")
    (tmp_path / "audit.key").symlink_to(tmp_path / "real")
    with pytest.raises(SigningKeyError, match="link"):
        signing_key(tmp_path / "audit.key")


def test_a_key_in_the_environment_is_taken_before_that_of_the_file_which_is_not_made(tmp_path: Path) -> None:
    path, seed = tmp_path / "audit.key", "0f" * 32
    assert (
        audit_key(path, {"EVERLOOP_AUDIT_KEY": seed}).public.hex
        == audit_key(None, {"EVERLOOP_AUDIT_KEY": seed}).public.hex
    )
    assert not path.exists()
    assert audit_key(path, {}).public.hex == audit_key(path, {"EVERLOOP_AUDIT_KEY": ""}).public.hex
    assert path.exists()


def test_what_is_no_key_in_the_environment_is_refused_without_being_said(tmp_path: Path) -> None:
    with pytest.raises(SigningKeyError, match="EVERLOOP_AUDIT_KEY: not a key, which is 64 hex digits") as refused:
        audit_key(tmp_path / "audit.key", {"EVERLOOP_AUDIT_KEY": "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_the_secret_half_stays_in_the_process(tmp_path: Path) -> None:
    key = signing_key(tmp_path / "audit.key")
    secret = (tmp_path / "audit.key").read_text()
    assert secret not in repr(key)
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(key)
