"""What people are told stands in the record that causes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from workflows.log import Draft, Log, Notification, Record, open_store, stored_records


class Total:
    def initial(self) -> int:
        return 0

    def apply(self, state: int, record: Record) -> int:
        return state + int(record.data["by"])

    def dump(self, state: int) -> Any:
        return state

    def load(self, data: Any) -> int:
        return int(data)


def milestone(state: int, draft: Draft) -> Sequence[Notification]:
    if state < 10 <= state + draft.data["by"]:
        return (Notification(event="ten.reached", severity="info", title="ten", text=f"{state} before"),)
    return ()


def add(by: int) -> Draft:
    return Draft("added", {"by": by})


def test_only_the_record_that_causes_it_carries_it(tmp_path: Path) -> None:
    log = Log(open_store(str(tmp_path)), "totals/a", Total(), tell=milestone)
    for by in (4, 5, 6, 7):
        log.append(lambda _, by=by: add(by))
    told = [[note["text"] for note in record.notify] for record in log.records()]
    assert told == [[], [], ["9 before"], []]


def test_it_is_decided_anew_on_the_state_after_a_lost_slot(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    mine, other = (Log(store, "totals/a", Total(), tell=milestone) for _ in range(2))
    assert (mine.refresh(), other.refresh()) == (0, 0)
    other.append(lambda _: add(9))
    mine.append(lambda _: add(1))
    (note,) = (note for record in mine.records() for note in record.notify)
    assert note["text"] == "9 before"


def test_what_a_draft_brings_itself_is_left_alone(tmp_path: Path) -> None:
    log = Log(open_store(str(tmp_path)), "totals/a", Total(), tell=milestone)
    log.append(lambda _: Draft("added", {"by": 20}, notify=({"event": "mine"},)))
    assert [record.notify for record in log.records()] == [({"event": "mine"},)]


def test_a_fault_in_telling_does_not_keep_the_fact_from_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))

    def broken(state: int, draft: Draft) -> Sequence[Notification]:
        raise KeyError("nothing to say")

    with caplog.at_level(logging.ERROR):
        assert Log(store, "totals/a", Total(), tell=broken).append(lambda _: add(1)) is not None
    assert len(list(stored_records(store, "totals/a"))) == 1
    assert "nobody is told of this added" in caplog.text


def test_a_notification_survives_json_and_what_is_missing_is_empty() -> None:
    note = Notification(event="a.b", severity="critical", title="t", text="x", facts={"n": 1})
    assert Notification.from_json(note.to_json()) == note
    odd = Notification.from_json({"severity": "loud", "run_id": None, "surplus": 1})
    assert (odd.event, odd.severity, odd.run_id, odd.facts) == ("unknown", "info", "", {})
