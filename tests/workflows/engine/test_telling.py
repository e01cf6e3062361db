"""What people are told of a run, and that it stands in the record that causes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Bounds, Engine, approval, step
from workflows.engine.outsiders import condemn
from workflows.log import Record, stored_records


@dataclass(frozen=True)
class Finding:
    number: int

    def headline(self) -> str:
        return f"the number is {self.number}"


@step
def find(number: int) -> Finding:
    return Finding(number)


@step
def mumble(agreed: Any) -> bool:
    return bool(agreed.approved)


def asking(config: dict[str, Any]) -> Any:
    finding = find.bind(config["number"])
    return mumble.bind(approval("ship", subject=finding, expires_s=config.get("expires_s")))


def records(engine: Engine, run_id: str) -> list[Record]:
    return list(stored_records(engine.store, f"runs/{run_id}"))


def told(engine: Engine, run_id: str) -> list[Mapping[str, Any]]:
    return [note for record in records(engine, run_id) for note in record.notify]


def events(engine: Engine, run_id: str) -> list[str]:
    return [note["event"] for note in told(engine, run_id)]


def begun(engine: Engine, builder: Any, config: dict[str, Any], **options: Any) -> Simulated:
    runner = Simulated(engine, engine.start(builder, config, **options))
    runner.log = engine._log(runner.run_id)
    runner.claim()
    return runner


def test_a_run_tells_when_it_starts_and_how_it_ends_and_nothing_between(engine: Engine, folder: str) -> None:
    runner = begun(engine, graphs.small, {"folder": folder}, labels={"alias": "demo", "team": "search"}, cause="noon")
    runner.finish()

    started, ended = told(engine, runner.run_id)
    assert (started["event"], ended["event"]) == ("run.started", "run.succeeded")
    assert (ended["run_id"], ended["alias"], ended["facts"]["team"]) == (runner.run_id, "demo", "search")
    assert "noon" in started["text"]
    assert [bool(record.notify) for record in records(engine, runner.run_id)].count(True) == 2


def test_a_run_that_is_taken_over_does_not_start_again(engine: Engine, folder: str) -> None:
    runner = begun(engine, graphs.small, {"folder": folder})
    runner.write()
    runner.claim()
    runner.finish()

    assert events(engine, runner.run_id) == ["run.started", "run.succeeded"]


def test_a_failure_names_the_step_the_error_and_the_command_that_goes_on(engine: Engine, folder: str) -> None:
    runner = begun(engine, graphs.failing_graph, {"folder": folder})
    runner.finish()

    note = told(engine, runner.run_id)[-1]
    assert (note["event"], note["severity"]) == ("run.failed", "critical")
    assert "the first time it fails" in note["text"]
    assert f"python -m workflows.run --resume {runner.run_id} --storage {engine.store.uri}" in note["text"]
    assert note["facts"]["step"] in note["title"]


def test_a_result_that_has_a_headline_is_quoted(engine: Engine) -> None:
    runner = begun(engine, asking, {"number": 7})
    runner.finish()
    engine.approve(runner.run_id, "ship", by="ada", reason="looks right")
    runner.claim()
    runner.finish()

    note = told(engine, runner.run_id)[-1]
    assert note["event"] == "run.succeeded"
    assert note["facts"]["findings"] == {"find": "the number is 7"}
    assert "the number is 7" in note["text"]


def test_an_approval_is_asked_for_once_with_what_a_person_needs_to_decide(engine: Engine) -> None:
    runner = begun(engine, asking, {"number": 7})
    runner.finish()
    runner.claim(now=1.0)
    runner.finish(now=1.0)

    asked = [note for note in told(engine, runner.run_id) if note["event"] == "approval.requested"]
    wait = engine.view(runner.run_id).waits[0]
    assert len(asked) == 1
    assert asked[0]["facts"]["digest"] == wait.subject
    assert asked[0]["facts"]["gate"] == "ship"
    assert "the number is 7" in asked[0]["text"]
    assert f"runs approve {runner.run_id} ship" in asked[0]["text"]


def test_an_approval_that_is_asked_for_beside_running_steps_does_not_wait_for_them(engine: Engine, folder: str) -> None:
    runner = begun(engine, beside, {"folder": folder})
    runner.write()
    assert runner.log.state.running
    assert "approval.requested" in events(engine, runner.run_id)


def beside(config: dict[str, Any]) -> Any:
    return graphs.total.bind([graphs.one.bind(config["folder"]), both.bind(approval("early"))])


@step
def both(agreed: Any) -> int:
    return int(agreed.approved)


def test_a_decision_and_its_absence_are_told(engine: Engine) -> None:
    decided = begun(engine, asking, {"number": 7})
    decided.finish()
    engine.approve(decided.run_id, "ship", by="ada", approved=False, reason="too small")
    expired = begun(engine, asking, {"number": 8, "expires_s": 5.0})
    expired.finish()
    expired.claim(now=engine.store.now() + 10)
    expired.finish(now=engine.store.now() + 10)

    (no,) = [note for note in told(engine, decided.run_id) if note["event"] == "approval.decided"]
    (late,) = [note for note in told(engine, expired.run_id) if note["event"] == "approval.decided"]
    assert (no["facts"]["outcome"], no["facts"]["by"]) == ("rejected", "ada")
    assert "too small" in no["text"]
    assert late["facts"]["outcome"] == "expired"


def test_cancelled_and_given_up_runs_are_told(engine: Engine, folder: str) -> None:
    cancelled = engine.start(graphs.small, {"folder": folder})
    engine.cancel(cancelled, by="ada", reason="wrong data")
    dead = begun(engine, graphs.small, {"folder": folder, "x": 1})
    dead.log.append(lambda state: condemn(dead.run_id, state, reason="taken up 5 times in vain", at=1.0))

    (note,) = told(engine, cancelled)
    assert (note["event"], note["title"].endswith("by ada"), "wrong data" in note["text"]) == (
        "run.cancelled",
        True,
        True,
    )
    assert told(engine, dead.run_id)[-1]["event"] == "run.dead"
    assert "--resume" in told(engine, dead.run_id)[-1]["text"]


def test_a_run_whose_snapshot_is_read_does_not_ask_again(engine: Engine) -> None:
    from workflows.engine.snapshot import dump, load

    runner = begun(engine, asking, {"number": 7}, run_id="asked")
    state = runner.finish()
    assert load(dump(state), engine._fold).asked == state.asked == ["ship"]


def test_bounds_do_not_hide_an_approval(engine: Engine) -> None:
    run_id = engine.start(asking, {"number": 1, "expires_s": 30.0})
    runner = Simulated(engine, run_id, bounds=Bounds(inline_wait_s=60.0))
    runner.log = engine._log(run_id)
    runner.claim()
    for _ in range(6):
        runner.write()
        runner.work()
    assert engine.view(run_id).status == "running"
    assert "approval.requested" in events(engine, run_id)
