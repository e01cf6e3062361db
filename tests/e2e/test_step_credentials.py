"""A whole round on MinIO in which each step has storage credentials of its own, tried out by who has got into it."""

from __future__ import annotations

import pytest

from steps.common.releases import open_release_log
from tests.e2e.team_round import ALREADY_THERE, Intruder, TeamRound
from workflows.access import STEP_NEEDS
from workflows.engine.head import BROKER_ACCESS_KEY, BROKER_SECRET_KEY, NOT_FOR_WORKERS
from workflows.step_credentials import SERVING

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_round_ends_promoted_and_every_step_had_its_own(team: TeamRound) -> None:
    assert {found.step for found in team.intruders} == set(STEP_NEEDS) - SERVING
    steps = len({found.step for found in team.intruders})
    assert len({found.credentials[0] for found in team.intruders}) == steps
    assert len({found.credentials[2] for found in team.intruders}) == steps
    champion = open_release_log(team.store, "nano").refresh().champion
    assert champion is not None
    assert champion.run_id == team.run_id


def test_no_long_lived_key_is_in_the_environment_of_a_step(team: TeamRound) -> None:
    for found in team.intruders:
        environment = found.environment
        keys = {name: environment.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        assert keys == {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, found.step
        assert not {BROKER_ACCESS_KEY, BROKER_SECRET_KEY, *NOT_FOR_WORKERS} & set(environment), found.step
        held = {what for what, value in team.planted.items() if any(value in text for text in environment.values())}
        # The control: what the loop's owner gives to steps on purpose is there.
        assert held == {"a token in the environment"}, found.step


def test_what_one_step_has_opens_neither_another_step_nor_another_run(team: TeamRound) -> None:
    refused = {"put step", "put journal", "put another run", "get another run", "put approvals", "put audit"}
    for found in team.intruders:
        assert statuses(found, refused) == dict.fromkeys(refused, 403), found.step
        assert found.answers["put release"] == 403, found.step
        control = {"put own", "get own", "get journal"}
        assert statuses(found, control) == dict.fromkeys(control, 200), found.step
    assert team.store.get(ALREADY_THERE) == b"of another run"


def statuses(found: Intruder, names: set[str]) -> dict[str, int]:
    return {name: found.answers[name] for name in names}
