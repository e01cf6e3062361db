"""The secrets of a real round stay where they are: in no object of the storage, no log of a service, no log of Ray."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.team_round import MARKER, TeamRound
from workflows.log.served_credentials import TICKET

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def forms(secret: str) -> set[bytes]:
    return {form.encode() for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode())}


def stored(team: TeamRound) -> Iterator[tuple[str, bytes]]:
    """Every object: records, blobs, audit entries, receipts. Read as a client reads them."""
    for area in team.store.folders(""):
        for info in team.store.list(area):
            yield info.key, team.store.get(info.key)


def written(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def found(secrets: dict[str, str], places: Iterator[tuple[str, bytes]]) -> set[tuple[str, str]]:
    wanted = [(what, form) for what, secret in secrets.items() for form in forms(secret)]
    return {(what, place) for place, data in places for what, form in wanted if form in data}


def of_steps(team: TeamRound) -> dict[str, str]:
    """What the steps were given for themselves."""
    given = {}
    for intruder in team.intruders:
        given[f"the desk token of {intruder.step}"] = intruder.desk_token
        given[f"the secret key of {intruder.step}"] = intruder.credentials[1]
        given[f"the session token of {intruder.step}"] = intruder.credentials[2]
    return given


def test_none_is_in_the_storage(team: TeamRound) -> None:
    objects = dict(stored(team))
    assert found(team.planted | of_steps(team), iter(objects.items())) == set()
    # The control: every kind of object was read, and what is no secret is found in it.
    assert {key.partition("/")[0] for key in objects} >= {"runs", "blobs", "audit", "approvals", "outbox", "signals"}
    marked = {key for key, data in objects.items() if MARKER.encode() in data}
    assert f"runs/{team.run_id}/{0:020}.json" in marked


def test_none_is_in_what_the_services_and_the_driver_wrote(team: TeamRound) -> None:
    data = team.folder / "objects"  # the files of the storage: other secrets than those of the loop live there
    places = {place: text for place, text in written(team.folder) if not Path(place).is_relative_to(data)}
    leaks = found(team.planted | of_steps(team), iter(places.items()))
    assert {(what, place) for what, place in leaks if Path(place) not in team.holders} == set()
    # The controls: the secrets are found where they are kept on purpose, and the logs say something.
    assert {Path(place) for _, place in leaks} == team.holders
    assert all(path.stat().st_mode & 0o077 == 0 for path in team.holders)
    for log in ("door.log", "reconciler.log", "minio.log"):
        assert str(team.folder / log) in places
    assert any(place.endswith(f"{team.run_id}.log") and text for place, text in places.items())


def test_none_is_in_rays_own_logs(team: TeamRound) -> None:
    places = dict(written(team.ray_folder))
    assert found(team.planted | of_steps(team), iter(places.items())) == set()
    # The control: the logs of the head and of its workers are there, and name what is no secret.
    names = {Path(place).name for place in places}
    assert {"gcs_server.out", "raylet.out"} <= names
    assert any(name.startswith("worker-") for name in names)
    # Ray does write down what it is told to give to a step.
    tickets = {intruder.environment[TICKET].encode() for intruder in team.intruders}
    assert all(any(ticket in text for text in places.values()) for ticket in tickets)
