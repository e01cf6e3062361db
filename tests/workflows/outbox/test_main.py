"""The command line of the outbox."""

from __future__ import annotations

import json

import pytest

from tests.workflows.outbox.conftest import Sink, notice
from workflows.log import Store
from workflows.outbox import Dispatcher, open_outbox
from workflows.outbox.__main__ import main


@pytest.fixture
def dead(store: Store, sink: Sink) -> str:
    """The id of an event that nobody took."""
    sink.answer = 410
    notice(store, "k", facts={"late_s": 60})
    dispatcher = Dispatcher(store, [sink.receiver()])
    dispatcher.round()
    assert dispatcher.wait(60)
    return next(iter(open_outbox(store).refresh().dead))


def test_dead_letters_are_listed_and_say_so_by_the_exit_code(
    store: Store, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", "--storage", store.uri, "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["status"], row["deliveries"]["sink"]["http_status"]) == (dead, "dead", 410)
    assert main(["list", "--storage", store.uri]) == 0
    assert f"{dead}  title of k" in capsys.readouterr().out


def test_one_event_is_shown_with_its_receipts_and_what_it_tells(
    store: Store, dead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", dead, "--storage", store.uri]) == 0
    shown = capsys.readouterr().out
    assert "HTTP 410" in shown
    assert "It is late." in shown
    assert '"late_s": 60' in shown
    assert main(["show", dead, "--storage", store.uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notification"]["event"] == "schedule.missed"


def test_a_retry_waits_for_the_next_dispatcher_and_is_delivered(
    store: Store, dead: str, sink: Sink, capsys: pytest.CaptureFixture[str]
) -> None:
    sink.answer = 204
    assert main(["retry", dead, "--storage", store.uri]) == 0
    assert "again to sink" in capsys.readouterr().out
    assert main(["dead", "--storage", store.uri]) == 0
    dispatcher = Dispatcher(store, [sink.receiver()])
    dispatcher.round()
    assert dispatcher.wait(60)
    assert sink.ids == [dead]


def test_an_unknown_id_is_wrong_use(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("show", "retry"):
        assert main([verb, "runs:x:1:0:aa", "--storage", store.uri]) == 2
        assert "'runs:x:1:0:aa' is not in the outbox" in capsys.readouterr().err
