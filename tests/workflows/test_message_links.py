"""Links in messages: a question carries one token for all its deliveries, good for its gate and nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.workflows.engine.simulated import Simulated
from tests.workflows.engine.test_telling import asking
from workflows.access import Approvals
from workflows.engine import Engine
from workflows.log import Notification, list_logs, stored_records
from workflows.message_links import MessageLinks
from workflows.outbox import Found
from workflows.outbox.collecting import notifications_of

URL = "https://door.example.org/"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(f"file://{tmp_path}/storage")


def asked(engine: Engine, **config: float) -> Found:
    """The question of a run that waits at a gate."""
    runner = Simulated(engine, engine.start(asking, {"number": 7, **config}))
    runner.log = engine._log(runner.run_id)
    runner.claim(now=time.time())
    runner.finish(now=time.time())
    log = f"runs/{runner.run_id}"
    notes = [found for record in stored_records(engine.store, log) for found in notifications_of(log, record)]
    return next(found for found in notes if found.notification.event == "approval.requested")


def test_a_question_has_a_link_that_stays_the_same_over_receivers_and_repetitions(engine: Engine) -> None:
    found = asked(engine)
    links = MessageLinks(engine, URL)
    first, second = links(found), links(found)
    assert first is not None
    assert first == second
    assert first["page"] == f"https://door.example.org/runs/{found.notification.run_id}"
    token = first["approval"].removeprefix("https://door.example.org/v1/approvals/")
    assert first["approval_page"] == f"https://door.example.org/approvals/{token}"
    assert len(list_logs(engine.store, "approvals")) == 1
    written = b"".join(engine.store.get(info.key) for info in engine.store.list(""))
    assert token.encode() not in written

    request = Approvals(engine.store, None, lambda _: None).show(token).request  # type: ignore[arg-type]  # only shows
    assert request is not None
    assert (request.run, request.gate) == (found.notification.run_id, "ship")
    assert request.digest == engine.view(request.run).waits[0].subject


def test_after_a_restart_the_link_is_another_one_and_both_are_good(engine: Engine) -> None:
    found = asked(engine)
    old, new = MessageLinks(engine, URL)(found), MessageLinks(engine, URL)(found)
    assert old is not None
    assert new is not None
    assert old["approval"] != new["approval"]
    approvals = Approvals(engine.store, None, lambda _: None)  # type: ignore[arg-type]  # only shows
    assert all(approvals.show(each["approval"].rpartition("/")[2]).request for each in (old, new))


def test_the_link_is_good_no_longer_than_the_gate(engine: Engine) -> None:
    found = asked(engine, expires_s=600.0)
    links = MessageLinks(engine, URL)(found)
    assert links is not None
    approvals = Approvals(engine.store, None, lambda _: None)  # type: ignore[arg-type]  # only shows
    request = approvals.show(links["approval"].rpartition("/")[2]).request
    assert request is not None
    assert request.expires_at - time.time() < 601.0


def test_nobody_is_asked_what_was_decided_or_is_about_to_expire(engine: Engine) -> None:
    decided = asked(engine)
    run_id = decided.notification.run_id
    engine.approve(run_id, "ship", by="ada")
    runner = Simulated(engine, run_id)
    runner.claim(now=time.time())
    runner.finish(now=time.time())
    links = MessageLinks(engine, URL)
    assert links(decided) is None
    assert links(asked(engine, expires_s=5.0)) is None
    cancelled = asked(engine)
    engine.cancel(cancelled.notification.run_id)
    assert links(cancelled) is None


def test_a_notice_that_pretends_to_be_a_question_gets_no_token(engine: Engine) -> None:
    found = asked(engine)
    forged = Found("notices", found.record, 0, found.notification)
    links = MessageLinks(engine, URL)(forged)
    assert links is not None
    assert set(links) == {"page"}
    about_nothing = Notification(event="a.b", severity="info", title="t", text="x")
    assert MessageLinks(engine, URL)(Found("notices", found.record, 0, about_nothing)) == {"page": URL}


def test_a_protected_alias_needs_four_eyes_by_its_link(engine: Engine, tmp_path: Path) -> None:
    from workflows.api import Loop
    from workflows.configs import load
    from workflows.run_facts import gate

    config = load("nano", None, ["approval.required=true"])
    run_id = Loop(engine.store.uri, engine=engine).start_by_hand(config, by="Person::ada").run_id
    team = tmp_path / "team.toml"
    team.write_text('[alias.nano]\nteam = "search"\nprotected = true\n')
    links = MessageLinks(engine, URL, team)
    about = gate(engine, links._directory, run_id, "release").attributes
    assert (about["team"], about["protected"], about["authors"]) == ("search", True, ["Person::ada"])
