"""A run asks before it releases; on a protected alias somebody else must have approved. Each denial has its control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.triggers.conftest import STEPS, Durable
from tests.workflows.engine.simulated import Simulated
from workflows.access.audit import AuditFold
from workflows.api import Loop
from workflows.configs import load
from workflows.engine import Engine, Project
from workflows.log import Log, list_logs
from workflows.promotion import NotPromotable, PromotionGate, team_gate

OLGA, ANN = "Person::olga", "Person::ann"


class World:
    """A team's storage, and a run by Olga that stands before its release."""

    def __init__(self, folder: Path, *, protected: bool, approval: bool) -> None:
        self.storage = f"file://{folder}/storage"
        principals = folder / "principals.toml"
        principals.write_text(f'[alias.nano]\nteam = "search"\nprotected = {str(protected).lower()}\n')
        self.engine = Engine(self.storage, project=Project())
        loop = Loop(self.storage, engine=self.engine)
        config = load("nano", None, [f"approval.required={str(approval).lower()}"])
        self.run_id = loop.start_by_hand(config, by=OLGA).run_id
        durable = Durable(None, loop, None, {})  # type: ignore[arg-type]  # only writes journals
        durable.walk(self.run_id, *STEPS, then="parked" if approval else "")
        self.gate = team_gate(self.storage, {"EVERLOOP_PRINCIPALS": str(principals)})
        assert self.gate is not None

    def decide(self, by: str, *, approved: bool = True) -> None:
        """Somebody decides, and the runner takes it in and stands before the release again."""
        self.engine.approve(self.run_id, "release", by=by, approved=approved)
        runner, now = Simulated(self.engine, self.run_id), self.engine.store.now()
        runner.claim(now=now)
        runner.write(now=now)
        assert ("deploy", 1) in runner.started

    def check(self) -> None:
        assert isinstance(self.gate, PromotionGate)
        self.gate.check(self.run_id)

    def asked(self) -> list[dict[str, Any]]:
        """Answers about promotions in the audit logs."""
        logs = [Log(self.engine.store, name, AuditFold()) for name in list_logs(self.engine.store, "audit")]
        entries = [dict(entry) for log in logs for record in log.records() for entry in record.data["entries"]]
        return [entry for entry in entries if entry.get("action") == "promote"]


def test_a_protected_alias_gets_nothing_that_nobody_approved(tmp_path: Path) -> None:
    world = World(tmp_path, protected=True, approval=False)

    with pytest.raises(NotPromotable, match=r"four-eyes-promote.*--fork .* approval.required=true"):
        world.check()

    (denial,) = world.asked()
    assert (denial["principal"], denial["resource"], denial["decision"]) == ("Service::runner", "Release::nano", "deny")


@pytest.mark.parametrize(("by", "allowed"), [(OLGA, False), (ANN, True), ("ann", True), ("olga", False)])
def test_it_takes_the_approval_of_another_than_who_started_the_run(by: str, allowed: bool, tmp_path: Path) -> None:
    world = World(tmp_path, protected=True, approval=True)
    world.decide(by)

    if allowed:
        world.check()
    else:
        with pytest.raises(NotPromotable, match="four-eyes-promote"):
            world.check()

    (answer,) = world.asked()
    assert answer["decision"] == ("allow" if allowed else "deny")
    assert answer["context"]["approved_by"] == [f"Person::{by.removeprefix('Person::')}"]
    assert answer["context"]["authors"] == [OLGA]


def test_an_alias_without_protection_needs_no_approval(tmp_path: Path) -> None:
    world = World(tmp_path, protected=False, approval=False)
    world.check()
    assert [answer["decision"] for answer in world.asked()] == ["allow"]


def test_what_is_not_to_be_released_is_not_asked_about(tmp_path: Path) -> None:
    world = World(tmp_path, protected=True, approval=True)
    world.decide(OLGA, approved=False)
    world.check()
    assert world.asked() == []


def test_one_machine_asks_nobody() -> None:
    assert team_gate("file:///nowhere", {}) is None
