"""Principals in a file that changes while a service runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from workflows.access import AuditUnavailable, FollowedDirectory, PrincipalError, key_digest

ANN = f'[[principal]]\nkind = "Person"\nid = "ann"\nroles = ["viewer"]\napi_keys = ["{key_digest("of ann")}"]\n'
BOB = f'[[principal]]\nkind = "Person"\nid = "bob"\napi_keys = ["{key_digest("of bob")}"]\n'


class Notes:
    """What would stand in the audit log."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.is_away = False

    def __call__(self, event: str, **facts: Any) -> None:
        if self.is_away:
            raise AuditUnavailable("audit/door", "away")
        self.events.append((event, facts))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "principals.toml"
    made.write_text(ANN + BOB)
    return made


def replaced(path: Path, text: str) -> None:
    """As an editor or Kubernetes does: another file under the same name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def problem(directory: FollowedDirectory) -> PrincipalError | None:
    return directory.reload_error


def test_a_key_that_is_taken_out_opens_nothing_from_the_next_question_on(path: Path) -> None:
    notes = Notes()
    directory = FollowedDirectory(path, notes)
    assert directory.by_api_key("of bob") is not None
    replaced(path, ANN)
    assert directory.by_api_key("of bob") is None
    assert directory.by_key_digest(key_digest("of bob")) is None
    assert directory.by_subject("Person::bob") is None
    assert directory.by_api_key("of ann") is not None
    assert notes.events == [("principals_loaded", {"principals": 1, "keys_gone": ["Person::bob"]})]


def test_roles_and_aliases_change_too(path: Path) -> None:
    directory = FollowedDirectory(path)
    assert not directory.alias("nano").protected
    replaced(path, ANN.replace("viewer", "approver") + "[alias.nano]\nprotected = true\n")
    assert directory.alias("nano").protected
    ann = directory.by_subject("Person::ann")
    assert ann is not None
    assert ann.roles == ("approver",)


@pytest.mark.parametrize("text", ["x = ", '[[principal]]\nkind = "Cat"\nid = "tom"\n', None])
def test_a_wrong_file_leaves_those_before_in_force_and_says_so(text: str | None, path: Path) -> None:
    notes = Notes()
    directory = FollowedDirectory(path, notes)
    assert problem(directory) is None
    if text is None:
        path.unlink()
    else:
        replaced(path, text)
    assert isinstance(problem(directory), PrincipalError)
    for _ in range(3):
        assert directory.by_api_key("of bob") is not None
    assert [event for event, _ in notes.events] == ["principals_refused"]
    replaced(path, ANN)
    assert problem(directory) is None
    assert directory.by_api_key("of bob") is None


def test_what_cannot_be_written_down_is_not_in_force_and_answers_nobody(path: Path) -> None:
    notes = Notes()
    directory = FollowedDirectory(path, notes)
    notes.is_away = True
    replaced(path, ANN)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            directory.by_api_key("of bob")
    notes.is_away = False
    assert directory.by_api_key("of bob") is None


def test_a_file_that_only_looks_changed_is_no_event(path: Path) -> None:
    notes = Notes()
    directory = FollowedDirectory(path, notes)
    replaced(path, ANN + BOB)
    assert directory.by_api_key("of bob") is not None
    assert notes.events == []


def test_many_threads_see_whole_directories(path: Path) -> None:
    directory = FollowedDirectory(path)
    seen: set[tuple[bool, bool]] = set()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            now = directory.current()
            seen.add((now.by_api_key("of ann") is not None, now.by_api_key("of bob") is not None))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for text in (ANN, BOB, ANN + BOB) * 20:
        replaced(path, text)
    over.set()
    for thread in threads:
        thread.join()
    assert seen <= {(True, True), (True, False), (False, True)}


def test_a_wrong_file_at_the_start_is_refused(path: Path) -> None:
    path.write_text("x = ")
    with pytest.raises(PrincipalError):
        FollowedDirectory(path)
