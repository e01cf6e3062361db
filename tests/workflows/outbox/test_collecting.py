"""Finding notifications: each once, in every log, without reading again what was read."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.workflows.outbox.conftest import Clock, Sink, notice
from workflows.log import Draft, Log, Notification, Record, Store, StoreUnavailable, fork_log
from workflows.outbox import Dispatcher, event_id, open_outbox, post_notice, read_found
from workflows.outbox.collecting import LOOK_BACK_S, MAX_LAG, Collector
from workflows.outbox.state import CLOSED


class Count:
    def initial(self) -> int:
        return 0

    def apply(self, state: int, record: Record) -> int:
        return state + 1

    def dump(self, state: int) -> Any:
        return state

    def load(self, data: Any) -> int:
        return int(data)


class Counting:
    """A store that counts what is asked of it."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.uri = inner, inner.uri
        self.gets: list[str] = []
        self.creates: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get(self, key: str) -> bytes:
        self.gets.append(key)
        return self.inner.get(key)

    def create(self, key: str, data: bytes) -> None:
        self.creates.append(key)
        self.inner.create(key, data)


NOTE = Notification(event="run.succeeded", severity="info", title="done", text="It is done.")


def write(store: Store, log: str, kind: str, *notes: Notification, at: float | None = None, **data: Any) -> None:
    notify = tuple(note.to_json() for note in notes)
    draft = Draft(kind, {"at": time.time() if at is None else at, **data}, notify=notify)
    Log(store, log, Count()).append(lambda _: draft)


def run(store: Store, run_id: str, *, at: float | None = None, last: str = "succeeded") -> None:
    write(store, f"runs/{run_id}", "created", run_id=run_id, at=at)
    write(store, f"runs/{run_id}", last, NOTE, at=at)


def rounds(dispatcher: Dispatcher) -> int:
    found = dispatcher.round().found
    assert dispatcher.wait(60)
    return found


def test_every_kind_of_log_is_looked_through_and_its_alias_is_known(store: Store, sink: Sink) -> None:
    run(store, "run-1")
    for folder in ("releases", "signals", "monitors"):
        write(store, f"{folder}/demo", "something", NOTE)
    notice(store, "k")
    assert rounds(Dispatcher(store, [sink.receiver()])) == 5
    aliases = {body["data"]["id"].split(":")[0]: body["data"]["alias"] for body in sink.bodies}
    assert aliases == {"runs": "", "releases": "demo", "signals": "demo", "monitors": "demo", "notices": ""}


def test_two_notifications_of_one_record_are_two_events(store: Store, sink: Sink) -> None:
    write(store, "monitors/demo", "scanned", NOTE, NOTE)
    rounds(Dispatcher(store, [sink.receiver()]))
    assert len(sink.events) == 2


def test_a_storm_in_one_log_is_told_whole_and_stops_no_other(store: Store, sink: Sink) -> None:
    title = "\u00fc" * 250  # as JSON in ASCII, six bytes each
    loud = Notification(event="schedule.missed", severity="info", title=title, text="x")
    log = Log(store, "notices", Count())
    for number in range(1200):
        log.append(lambda _, number=number: Draft("notice", {"key": str(number)}, notify=(loud.to_json(),)))
    run(store, "run-1")
    every = Collector(store, open_outbox(store), [sink.receiver()], time.time)
    assert every.collect() == 1201
    assert every.collect() == 0
    assert len(open_outbox(store).refresh().pending) == 1201


def test_what_could_not_be_recorded_is_found_again(store: Store, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(store, open_outbox(store), [sink.receiver()], time.time)
    collector.collect()
    write(store, "releases/demo", "promoted", NOTE)
    with monkeypatch.context() as away:

        def refuse(*_: Any) -> None:
            raise StoreUnavailable(store.uri, "outbox", "away")

        away.setattr(collector._outbox, "append", refuse)
        with pytest.raises(StoreUnavailable):
            collector.collect()
    assert collector.collect() == 1
    assert collector.collect() == 0


def test_a_round_in_which_nothing_happens_writes_nothing_and_leaves_finished_runs_alone(
    store: Store, sink: Sink
) -> None:
    for number in range(20):
        run(store, f"run-{number}")
    write(store, "runs/open", "created", run_id="open")
    dispatcher = Dispatcher(store, [sink.receiver()])
    rounds(dispatcher)

    again = Counting(store)
    restarted = Dispatcher(again, [sink.receiver()])
    rounds(restarted)
    again.gets.clear()
    assert rounds(restarted) == 0
    assert not again.creates
    assert [key for key in again.gets if key.startswith("runs/")] == [f"runs/open/{1:020}.json"]


def test_a_long_log_that_tells_nothing_is_not_read_again_from_the_start_after_a_restart(
    store: Store, sink: Sink
) -> None:
    rounds(Dispatcher(store, [sink.receiver()]))
    log = Log(store, "runs/long", Count())
    for number in range(MAX_LAG + 10):
        log.append(lambda _, number=number: Draft("advanced", {"at": time.time(), "n": number, "run_id": "long"}))
    rounds(Dispatcher(store, [sink.receiver()]))

    again = Counting(store)
    rounds(Dispatcher(again, [sink.receiver()]))
    assert len([key for key in again.gets if key.startswith("runs/")]) == 1


def test_an_old_storage_begins_with_the_last_day(store: Store, sink: Sink) -> None:
    run(store, "old", at=time.time() - LOOK_BACK_S - 60)
    run(store, "young", at=time.time() - 60)
    dispatcher = Dispatcher(store, [sink.receiver()])
    assert rounds(dispatcher) == 1
    assert sink.ids[0].startswith("runs:young:1:0:")
    run(store, "late-told", at=time.time() - 2 * LOOK_BACK_S)
    assert rounds(dispatcher) == 0


def test_what_came_while_no_dispatcher_was_there_is_found_however_late(store: Store, sink: Sink, clock: Clock) -> None:
    clock.now -= 10 * LOOK_BACK_S
    rounds(Dispatcher(store, [sink.receiver()], now=clock))
    run(store, "meanwhile", at=clock.now + LOOK_BACK_S)
    clock.now += 10 * LOOK_BACK_S
    assert rounds(Dispatcher(store, [sink.receiver()], now=clock)) == 1


def test_a_repaired_run_does_not_tell_again_what_its_copy_has_told(store: Store, sink: Sink) -> None:
    write(store, "runs/first", "created", run_id="first")
    write(store, "runs/first", "failed", NOTE)
    dispatcher = Dispatcher(store, [sink.receiver()])
    assert rounds(dispatcher) == 1
    fork_log(store, "runs/first", "runs/first-r2", 2)
    write(store, "runs/first-r2", "succeeded", NOTE)

    assert rounds(dispatcher) == 1
    assert [found.split(":")[1] for found in sink.ids] == ["first", "first-r2"]


def test_a_finished_run_is_closed_and_a_failed_one_is_not(store: Store, sink: Sink) -> None:
    run(store, "done")
    run(store, "failed", last="failed")
    dispatcher = Dispatcher(store, [sink.receiver()])
    rounds(dispatcher)
    cursors = open_outbox(store).refresh().cursors
    assert (cursors["runs/done"], cursors["runs/failed"]) == (CLOSED, 2)
    write(store, "runs/failed", "claimed")
    write(store, "runs/failed", "succeeded", NOTE)
    assert rounds(dispatcher) == 1


def test_a_corrupt_log_keeps_no_other_from_being_told(store: Store, sink: Sink) -> None:
    run(store, "good")
    write(store, "runs/bad", "created", run_id="bad")
    store.put(f"runs/bad/{1:020}.json", b"torn")
    dispatcher = Dispatcher(store, [sink.receiver()])
    assert rounds(dispatcher) == 1
    assert rounds(dispatcher) == 0


def test_ids_fit_a_webhook_differ_between_storages_and_lead_back_to_the_record(store: Store) -> None:
    post_notice(store, {"event": "a.b", "severity": "info", "title": "t", "text": "x"}, "k")
    found = read_found(store, "notices", 0, 0)
    assert found is not None
    assert found.id == f"notices:0:0:{found.record.record_id[:8]}"
    assert read_found(store, "notices", 0, 1) is None
    assert read_found(store, "notices", 7, 0) is None
    odd = event_id("releases/a@b=c", found.record, 0)
    assert odd.replace(":", "").isalnum()
    assert odd != event_id("releases/a@b+c", found.record, 0)


def test_a_burst_larger_than_a_record_is_taken_whole(store: Store, sink: Sink) -> None:
    many = Log(store, "releases/demo", Count())
    for _ in range(450):
        many.append(lambda _: Draft("told", {"at": time.time()}, notify=(NOTE.to_json(),)))
    assert Dispatcher(store, [sink.receiver()]).round().found == 450


def test_an_old_log_with_snapshots_is_looked_through_to_its_end(store: Store, sink: Sink) -> None:
    old = time.time() - 2 * LOOK_BACK_S
    log = Log(store, "releases/demo", Count())
    for number in range(1000):
        log.append(lambda _, number=number: Draft("told", {"at": old, "n": number}))
    assert any("snapshots" in info.key for info in store.list("releases/demo"))
    for info in list(store.list("releases/demo")):
        os.utime(store.uri.removeprefix("file://") + "/" + info.key, (old, old))
    write(store, "releases/demo", "told", NOTE)
    assert rounds(Dispatcher(store, [sink.receiver()])) == 1
