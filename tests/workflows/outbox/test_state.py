"""The fold of the outbox keeps its promises under any order of records."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.log import Record
from workflows.outbox.state import SCHEDULE_S, Event, OutboxFold, OutboxState

IDS = [f"runs:r{number}:0:0:aaaaaaaa" for number in range(4)]
RECEIVERS = ["chat", "mail"]


def record(kind: str, data: dict[str, Any], index: int = 0) -> Record:
    return Record(index, kind, data, f"{index:032x}", "test", 0, 0.0, "0" * 64)


def collected(event_id: str) -> dict[str, Any]:
    found = {
        "id": event_id,
        "log": "runs/r",
        "index": 0,
        "position": 0,
        "event": "run.failed",
        "severity": "info",
        "title": "t",
        "run_id": "r",
        "alias": "",
        "to": RECEIVERS,
    }
    return {"cursors": {event_id: 1}, "found": [found], "since": 0.0, "at": 1.0}


events = st.sampled_from(IDS)
receivers = st.sampled_from(RECEIVERS)
times = st.floats(1.0, 100.0)
steps = st.one_of(
    st.tuples(st.just("claimed"), events, receivers, times).map(
        lambda t: (t[0], {"deliveries": [[t[1], t[2]]], "until": t[3], "at": 1.0})
    ),
    st.tuples(st.just("attempted"), events, receivers, st.sampled_from(["delivered", "failed", "dead", "moot"])).map(
        lambda t: (
            t[0],
            {
                "id": t[1],
                "receiver": t[2],
                "outcome": t[3],
                "status": 500,
                "error": "e",
                "retry_at": 50.0 if t[3] == "failed" else None,
                "at": 2.0,
            },
        )
    ),
    st.tuples(st.just("retried"), events, receivers).map(
        lambda t: (t[0], {"id": t[1], "receivers": [t[2]], "by": "ada", "at": 3.0})
    ),
)


def folded(history: list[tuple[str, dict[str, Any]]]) -> OutboxState:
    fold = OutboxFold()
    state = fold.initial()
    for index, (kind, data) in enumerate(history):
        state = fold.apply(state, record(kind, data, index))
    return state


@given(st.lists(steps, max_size=40))
@settings(max_examples=150, deadline=None)
def test_an_event_stands_in_one_place_and_that_place_tells_the_truth(history: list[tuple[str, dict[str, Any]]]) -> None:
    state = folded([("collected", collected(event_id)) for event_id in IDS] + history)

    places: Counter[str] = Counter([*state.pending, *state.dead, *(event.id for event in state.recent)])
    assert places == Counter(IDS)
    assert {event.status for event in state.pending.values()} <= {"pending"}
    assert {event.status for event in state.dead.values()} <= {"dead"}
    assert {event.status for event in state.recent} <= {"delivered", "moot"}
    assert sum(state.num_outcomes.values()) == sum(kind == "attempted" for kind, _ in history)


@given(st.lists(steps, max_size=30), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_a_snapshot_anywhere_changes_nothing(history: list[tuple[str, dict[str, Any]]], at: int) -> None:
    fold = OutboxFold()
    whole = [("collected", collected(event_id)) for event_id in IDS] + history
    state = folded(whole[:at])
    state = fold.load(json.loads(json.dumps(fold.dump(state))))
    for index, (kind, data) in enumerate(whole[at:], at):
        state = fold.apply(state, record(kind, data, index))
    assert state == folded(whole)


@given(st.lists(steps, max_size=30), st.floats(0.0, 200.0))
@settings(max_examples=100, deadline=None)
def test_nothing_that_waits_is_forgotten(history: list[tuple[str, dict[str, Any]]], now: float) -> None:
    state = folded([("collected", collected(event_id)) for event_id in IDS] + history)
    waiting = {
        (event.id, name)
        for event in state.pending.values()
        for name, delivery in event.deliveries.items()
        if delivery.status == "pending"
    }
    due = {(event.id, delivery.receiver) for event, delivery in state.due(now)}
    late = {(event.id, delivery.receiver) for event, delivery in state.due(1000.0)}
    assert due <= waiting
    assert late == waiting


def test_many_dead_letters_do_not_fill_the_memory() -> None:
    from workflows.outbox.state import MAX_DEAD, _moved

    state = folded([("collected", collected(IDS[0])), *[("attempted", _dead(IDS[0], name)) for name in RECEIVERS]])
    event: Event = state.dead[IDS[0]]
    for number in range(MAX_DEAD + 5):
        state = _moved(state, replace(event, id=f"e{number}"))
    assert len(state.dead) == MAX_DEAD
    assert IDS[0] not in state.dead


def _dead(event_id: str, receiver: str) -> dict[str, Any]:
    return {
        "id": event_id,
        "receiver": receiver,
        "outcome": "dead",
        "status": 500,
        "error": "e",
        "retry_at": None,
        "at": 2.0,
    }


def test_the_schedule_is_that_of_the_standard() -> None:
    assert SCHEDULE_S == (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600)
