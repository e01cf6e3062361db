"""A round from notice to receipt on every kind of storage."""

from __future__ import annotations

from tests.workflows.outbox.conftest import Sink, notice
from workflows.log import open_store
from workflows.outbox import Dispatcher, open_outbox


def test_notices_are_delivered_once_and_a_restart_repeats_nothing(storage: str, sink: Sink) -> None:
    store = open_store(storage)
    for number in range(3):
        notice(store, f"k{number}")
    for _ in range(2):
        dispatcher = Dispatcher(store, [sink.receiver()])
        dispatcher.round()
        assert dispatcher.wait(60)
    assert len(sink.ids) == len(sink.events) == 3
    assert [event.status for event in open_outbox(store).refresh().recent] == ["delivered"] * 3
