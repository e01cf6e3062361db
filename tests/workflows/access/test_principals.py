from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from workflows.access import AliasRule, PrincipalError, key_digest, load_directory, local_person, new_api_key

DIRECTORY = """
[[principal]]
kind = "Person"
id = "ann"
roles = ["approver", "viewer"]
team = "search"
clearance = "confidential"
api_keys = ["{digest}"]

[[principal]]
kind = "CI"
id = "main"
repository = "example/everloop"
"""


def test_a_key_leads_to_its_principal_and_only_its_digest_is_stored(tmp_path: Path) -> None:
    key = new_api_key()
    (tmp_path / "principals.toml").write_text(DIRECTORY.format(digest=key_digest(key)))
    directory = load_directory(tmp_path / "principals.toml")
    ann = directory.by_api_key(key)
    assert ann is not None
    assert (ann.subject, ann.roles, ann.clearance) == ("Person::ann", ("approver", "viewer"), "confidential")
    assert directory.by_subject("CI::main") is not None
    for wrong in (key[:-1], key + "a", "", hashlib.sha256(key.encode()).hexdigest(), "\ud800"):
        assert directory.by_api_key(wrong) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[principal]]\nkind = "Robot"\nid = "r"', "Robot"),
        ('[[principal]]\nkind = "Person"', "needs an id"),
        ('[[principal]]\nkind = "Person"\nid = "a"\npassword = "x"', "password"),
        ('[[principal]]\nkind = "Person"\nid = "a"\nowns_storage = true', "owns_storage"),
        ('[[principal]]\nkind = "Person"\nid = "a"\nclearance = "all"', "clearance"),
        ('[[principal]]\nkind = "Person"\nid = "a"\nteam = 3', "not text"),
        ('[[principal]]\nkind = "Person"\nid = "a"\nroles = "admin"', "list of text"),
        ('[[principal]]\nkind = "Person"\nid = "a"\napi_keys = ["elk_secret"]', "never a key itself"),
        ('[[principal]]\nkind = "Person"\nid = "a"\n[[principal]]\nkind = "Person"\nid = "a"', "twice"),
        ("principals = []", "principals"),
        ("principal = [3]", "not a table"),
        ("[[", "Invalid"),
    ],
)
def test_a_wrong_directory_is_refused_by_name(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "principals.toml"
    path.write_text(text)
    with pytest.raises(PrincipalError, match=reason) as caught:
        load_directory(path)
    assert "principals.toml" in str(caught.value)
    assert "elk_secret" not in str(caught.value)


def test_two_principals_cannot_share_a_key(tmp_path: Path) -> None:
    entry = '[[principal]]\nkind = "Person"\nid = "{}"\napi_keys = ["' + "a" * 64 + '"]\n'
    (tmp_path / "p.toml").write_text(entry.format("a") + entry.format("b"))
    with pytest.raises(PrincipalError, match="belongs to two"):
        load_directory(tmp_path / "p.toml")


def test_aliases_have_a_team_and_may_be_protected(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[alias.prod]\nteam = "search"\nprotected = true\n')
    directory = load_directory(tmp_path / "p.toml")
    assert directory.alias("prod") == AliasRule("search", protected=True)
    assert directory.alias("another") == AliasRule("local", protected=False)


@pytest.mark.parametrize(
    "text",
    ["alias = 3", "[alias]\nprod = 1", "[alias.a]\nteam = 3", '[alias.a]\nprotected = "yes"', "[alias.a]\nx = 1"],
)
def test_a_wrong_alias_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PrincipalError, match="alias"):
        load_directory(tmp_path / "p.toml")


def test_the_local_person_owns_a_folder_of_their_own_and_the_bucket_that_they_can_write_to(tmp_path: Path) -> None:
    assert local_person(f"file://{tmp_path}/not/there/yet").owns_storage
    assert local_person(str(tmp_path)).owns_storage
    assert local_person("s3://bucket/prefix").owns_storage
    assert not local_person("gs://bucket/prefix").owns_storage


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_owned(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    assert not local_person(f"file://{tmp_path}").owns_storage
