"""One machine per alias: whoever calls in whatever order, one active run, and one run per cause."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps.common.signals import (
    STAGES,
    Admitted,
    Decision,
    Merged,
    RunNotActive,
    Signal,
    SignalPolicy,
    SignalState,
    Suppressed,
    admit,
    advanced,
    due,
    finished,
    open_signal_log,
    raise_signal,
    resolved,
    signal,
    started,
)
from workflows.log import Log, open_store

POLICY = SignalPolicy(cooldown_s=100, max_cooldown_s=800, max_runs_per_day=3, min_new_rows=5)


@pytest.fixture
def log(tmp_path: Path) -> Log[SignalState]:
    return open_signal_log(open_store(f"file://{tmp_path}"), "everloop")


def drift(window: str = "w1", champion: str | None = "1") -> Signal:
    return signal("everloop", "drift", window=window, champion=champion, evidence={"statistic": 0.2})


def schedule(window: str) -> Signal:
    return signal("everloop", "schedule", window=window, champion="1")


def run_to(log: Log[SignalState], found: Signal, outcome: Any, *, now: float, champion: str | None = "1") -> str:
    decision = admit(log, found, POLICY, now=now)
    assert isinstance(decision, Admitted)
    started(log, decision.run_id)
    finished(log, decision.run_id, outcome, POLICY, now=now, champion=champion)
    return decision.run_id


def test_fifty_duplicates_are_one_run_and_fifty_pieces_of_evidence(log: Log[SignalState]) -> None:
    decisions = [admit(log, drift(), POLICY, now=float(at)) for at in range(50)]
    assert [type(decision) for decision in decisions] == [Admitted] + [Merged] * 49
    assert len({decision.run_id for decision in decisions if not isinstance(decision, Suppressed)}) == 1
    assert log.state.active is not None
    assert log.state.active.num_evidence == 50
    assert log.state.num_signals == {"drift": 50}


def test_a_cause_gets_no_second_run_after_its_run_ended(log: Log[SignalState]) -> None:
    run_id = run_to(log, drift(), "promoted", now=0)
    assert admit(log, drift(), POLICY, now=10_000) == Merged(run_id)


def test_stages_only_go_forward_and_only_for_the_active_run(log: Log[SignalState]) -> None:
    decision = admit(log, drift(), POLICY, now=0)
    assert isinstance(decision, Admitted)
    assert log.state.stage(0) == "confirmed"
    started(log, decision.run_id)
    assert log.state.stage(0) == "collecting"
    advanced(log, decision.run_id, "canary")
    length = log.length
    advanced(log, decision.run_id, "training")
    assert (log.state.stage(0), log.length) == ("canary", length)
    with pytest.raises(RunNotActive, match="run-other"):
        advanced(log, "run-other", "training")


def test_other_causes_join_a_run_that_has_not_trained_yet_and_wait_for_one_that_has(log: Log[SignalState]) -> None:
    decision = admit(log, drift(), POLICY, now=0)
    assert isinstance(decision, Admitted)
    assert admit(log, schedule("monday"), POLICY, now=1) == Merged(decision.run_id)
    advanced(log, decision.run_id, "training")
    assert admit(log, drift("w2"), POLICY, now=2) == Merged(decision.run_id)
    assert isinstance(admit(log, schedule("tuesday"), POLICY, now=3), Suppressed)
    push = signal("everloop", "push", window="c0ffee", champion="1")
    suppressed = admit(log, push, POLICY, now=4)
    assert isinstance(suppressed, Suppressed)
    assert (suppressed.reason, suppressed.pending) == ("active_run", True)
    finished(log, decision.run_id, "promoted", POLICY, now=10, champion="2")
    assert due(log.state, POLICY, 50) == ()
    assert [each.signal for each in due(log.state, POLICY, 111)] == [push]


def test_cooldown_doubles_with_setbacks_up_to_its_limit_and_a_promote_resets_it(log: Log[SignalState]) -> None:
    now, rests = 0.0, []
    for number, outcome in enumerate(
        ["rejected", "held", "rolled_back", "failed", "rejected", "promoted", "cancelled"]
    ):
        run_to(log, schedule(str(number)), outcome, now=now)
        rests.append(log.state.cooldown_until - now)
        now += 100_000
    assert rests == [200, 200, 400, 800, 800, 100, 0]


def test_suppressed_signals_are_counted_and_shown_with_the_reason(log: Log[SignalState]) -> None:
    run_to(log, drift(), "rejected", now=0)
    assert log.state.stage(10) == "cooldown"
    early = admit(log, schedule("a"), POLICY, now=10)
    assert isinstance(early, Suppressed)
    assert (early.reason, early.retry_at, early.pending) == ("cooldown", 200.0, False)
    few = signal("everloop", "data", window="v2", champion="1", num_new_rows=4)
    poor = admit(log, few, POLICY, now=300)
    assert isinstance(poor, Suppressed)
    assert poor.reason == "too_few_rows"
    for number in range(2):
        run_to(log, schedule(f"b{number}"), "promoted", now=1000 + 1000 * number)
    busy = admit(log, schedule("c"), POLICY, now=5000)
    assert isinstance(busy, Suppressed)
    assert (busy.reason, busy.retry_at) == ("daily_budget", 86_400.0)
    assert log.state.num_suppressed == {"cooldown": 1, "too_few_rows": 1, "daily_budget": 1}
    assert [past.reason for past in log.state.suppressed] == ["cooldown", "too_few_rows", "daily_budget"]
    assert log.state.stage(5000) == "idle"


def test_a_person_overrides_the_rest_but_not_the_active_run_and_the_log_says_who(log: Log[SignalState]) -> None:
    run_to(log, drift(), "rejected", now=0)
    manual = signal("everloop", "manual", window="ticket-7", champion="1")
    decision = admit(log, manual, POLICY, now=1, override_by="ada")
    assert isinstance(decision, Admitted)
    assert log.state.active is not None
    assert log.state.active.override_by == "ada"
    advanced(log, decision.run_id, "training")
    other = signal("everloop", "manual", window="ticket-8", champion="1")
    assert isinstance(admit(log, other, POLICY, now=2, override_by="ada"), Suppressed)


def test_alarms_of_one_incident_wait_as_one_and_get_one_run(log: Log[SignalState]) -> None:
    run_to(log, schedule("a"), "rejected", now=0)
    for window in ("w1", "w2", "w2", "w3"):
        raise_signal(log, drift(window), now=1)
    (waiting,) = log.state.pending.values()
    assert (waiting.num_evidence, len(waiting.keys)) == (3, 3)
    (waiting,) = due(log.state, POLICY, 1000)
    found = waiting.signal
    decision = admit(log, found, POLICY, now=1000, request={"recipe": "nano"})
    assert isinstance(decision, Admitted)
    assert log.state.pending == {}
    assert log.state.active is not None
    assert (log.state.active.num_evidence, log.state.active.request) == (3, {"recipe": "nano"})
    for window in ("w1", "w2", "w3"):
        assert admit(log, drift(window), POLICY, now=1001) == Merged(decision.run_id)


def test_what_waits_keeps_what_it_asks_for_and_a_whole_run_answers_for_a_fork(log: Log[SignalState]) -> None:
    decision = admit(log, schedule("a"), POLICY, now=0)
    assert isinstance(decision, Admitted)
    advanced(log, decision.run_id, "training")
    push = [signal("everloop", "push", window=commit, champion="1") for commit in ("c1", "c2")]
    for number, found in enumerate(push):
        decision = admit(log, found, POLICY, now=1, request={"fork": number}, collects=False)
        assert isinstance(decision, Suppressed)
    admit(log, signal("everloop", "data", window="v2", champion="1"), POLICY, now=2, request={"whole": 1})

    waiting = {each.signal.source: (each.request, each.collects) for each in log.state.pending.values()}
    assert waiting == {"push": ({"fork": 1}, False), "data": ({"whole": 1}, True)}
    assert log.state.active is not None
    finished(log, log.state.active.run_id, "rejected", POLICY, now=3, champion="1")
    assert [each.signal.source for each in due(log.state, POLICY, 1000)] == ["data", "push"]

    admit(log, push[0], POLICY, now=1000, request={"fork": 1}, collects=False)
    assert [each.signal.source for each in log.state.pending.values()] == ["data"]
    assert log.state.active.num_evidence == 2
    found = signal("everloop", "data", window="v3", champion="1")
    assert isinstance(admit(log, found, POLICY, now=1001), Suppressed)


def test_drift_of_a_dethroned_champion_is_moot_and_new_data_is_not(log: Log[SignalState]) -> None:
    decision = admit(log, schedule("a"), POLICY, now=0)
    assert isinstance(decision, Admitted)
    advanced(log, decision.run_id, "canary")
    raise_signal(log, drift("w1"), now=1)
    data = signal("everloop", "data", window="v2", champion="1", num_new_rows=50)
    raise_signal(log, data, now=2)
    finished(log, decision.run_id, "promoted", POLICY, now=3, champion="2")
    assert [each.signal for each in due(log.state, POLICY, 10_000)] == [data]


def test_a_resolved_alert_withdraws_its_cause_only_before_training(log: Log[SignalState]) -> None:
    alert = signal("everloop", "alert", window="fp1", champion="1")
    raise_signal(log, alert, now=0)
    assert resolved(log, alert.key, now=1) is None
    assert log.state.pending == {}
    second = signal("everloop", "alert", window="fp2", champion="1")
    decision = admit(log, second, POLICY, now=2)
    assert isinstance(decision, Admitted)
    assert resolved(log, second.key, now=3) == decision.run_id
    advanced(log, decision.run_id, "training")
    assert resolved(log, second.key, now=4) is None


def test_a_failed_run_takes_the_alias_again_when_it_is_resumed_and_free(log: Log[SignalState]) -> None:
    run_id = run_to(log, drift(), "failed", now=0)
    started(log, run_id)
    assert log.state.active is not None
    assert log.state.active.run_id == run_id
    finished(log, run_id, "promoted", POLICY, now=5, champion="2")
    finished(log, run_id, "promoted", POLICY, now=6, champion="2")
    with pytest.raises(RunNotActive):
        started(log, run_id)
    with pytest.raises(RunNotActive):
        finished(log, "run-unknown", "failed", POLICY, now=7, champion=None)


def test_racing_callers_get_one_admission(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    decisions: list[Decision] = []

    def call(number: int) -> None:
        log = open_signal_log(store, "everloop")
        decisions.extend(admit(log, drift(f"w{(number + turn) % 3}"), POLICY, now=0) for turn in range(3))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decisions) == 18
    assert sum(isinstance(decision, Admitted) for decision in decisions) == 1


def test_state_survives_its_snapshot_form(log: Log[SignalState]) -> None:
    import json

    from steps.common.signal_state import SignalFold

    run_to(log, drift(), "rejected", now=0)
    raise_signal(log, drift("w2"), now=1)
    admit(log, schedule("x"), POLICY, now=2)
    admit(log, schedule("y"), POLICY, now=1000)
    fold = SignalFold()
    assert fold.load(json.loads(json.dumps(fold.dump(log.state)))) == log.state


def test_policy_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="max_cooldown_s=1 must not be below cooldown_s=2"):
        SignalPolicy(cooldown_s=2, max_cooldown_s=1)


_SOURCES = st.sampled_from(["drift", "alert", "data", "schedule", "manual"])
_ACTIONS = st.one_of(
    st.tuples(st.just("admit"), _SOURCES, st.integers(0, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("raise"), _SOURCES, st.integers(0, 3)),
    st.tuples(st.just("admit-due")),
    st.tuples(st.just("start"), st.integers(0, 5)),
    st.tuples(st.just("advance"), st.integers(0, 5), st.sampled_from(STAGES)),
    st.tuples(st.just("finish"), st.integers(0, 5), st.sampled_from(["promoted", "rejected", "failed", "cancelled"])),
    st.tuples(st.just("resolve"), _SOURCES, st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(1, 50_000)),
)


class Caller:
    """One of several processes; it sees the log as of its last call."""

    def __init__(self, log: Log[SignalState], runs: list[str]) -> None:
        self.log, self.runs = log, runs

    def act(self, action: tuple[Any, ...], now: float) -> Decision | None:
        name, *arguments = action
        if name == "admit":
            source, window, override, collects = arguments
            return self.admit(self.signal(source, window), now, "ada" if override else None, collects)
        if name == "admit-due":
            found = due(self.log.refresh(), POLICY, now)
            return self.admit(found[0].signal, now, None, found[0].collects) if found else None
        if name == "raise":
            raise_signal(self.log, self.signal(*arguments), now=now)
        if name == "resolve":
            resolved(self.log, self.signal(*arguments).key, now=now)
        if name in ("start", "advance", "finish") and self.runs:
            run_id = self.runs[arguments[0] % len(self.runs)]
            try:
                if name == "start":
                    started(self.log, run_id)
                elif name == "advance":
                    advanced(self.log, run_id, arguments[1])
                else:
                    finished(self.log, run_id, arguments[1], POLICY, now=now, champion="1")
            except RunNotActive:
                pass
        return None

    def admit(self, found: Signal, now: float, override_by: str | None, collects: bool) -> Decision:
        decision = admit(self.log, found, POLICY, now=now, override_by=override_by, collects=collects)
        if isinstance(decision, Admitted):
            self.runs.append(decision.run_id)
        return decision

    def signal(self, source: Any, window: int) -> Signal:
        champion = self.log.state.active.signal.champion if self.log.state.active else "1"
        return signal("everloop", source, window=str(window), champion=champion)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=st.lists(st.tuples(st.integers(0, 2), _ACTIONS), max_size=40))
def test_any_interleaving_has_one_active_run_and_one_run_per_cause(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[tuple[int, tuple[Any, ...]]]
) -> None:
    store = open_store(f"file://{tmp_path_factory.mktemp('signals')}")
    runs: list[str] = []
    callers = [Caller(open_signal_log(store, "everloop"), runs) for _ in range(3)]
    now = 0.0
    for who, action in schedule:
        now += action[1] if action[0] == "wait" else 1
        callers[who].act(action, now)

    # The records are read anew and counted by hand, so that the fold is not its own witness.
    holders: list[str] = []
    admissions: dict[str, str] = {}
    for record in open_signal_log(store, "everloop").records():
        if record.kind == "admitted":
            assert not holders, "admitted beside an active run"
            key = record.data["signal"]["key"]
            assert key not in admissions, "a cause was admitted twice"
            admissions[key] = record.data["run_id"]
            holders.append(record.data["run_id"])
        elif record.kind == "started" and record.data["run_id"] not in holders:
            assert not holders, "resumed beside an active run"
            holders.append(record.data["run_id"])
        elif record.kind == "finished":
            assert holders == [record.data["run_id"]]
            holders.clear()
    assert sorted(admissions.values()) == sorted(runs)
    assert len(set(runs)) == len(runs)
