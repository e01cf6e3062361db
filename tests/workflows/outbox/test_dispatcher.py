"""Deliveries to a real receiver: once in general, at least once whatever dies, and nobody waits for somebody else."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflows.outbox.conftest import SECRET, Clock, Sink, notice
from workflows.access import Redactor
from workflows.log import Store, stored_records
from workflows.outbox import SCHEDULE_S, Dispatcher, Found, NoSuchDelivery, Receiver, open_outbox, retry
from workflows.outbox.dispatcher import CLAIM_S, MAX_BATCH, ORPHANED_S

REPOSITORY = Path(__file__).resolve().parents[3]


def rounds(dispatcher: Dispatcher, count: int = 1) -> None:
    for _ in range(count):
        dispatcher.round()
        assert dispatcher.wait(60)


def test_a_notification_is_delivered_once_signed_and_with_a_receipt(store: Store, sink: Sink) -> None:
    notice(store, "k", run_id="run-1", alias="demo", facts={"late_s": 60})
    dispatcher = Dispatcher(store, [sink.receiver()], links=lambda _: {"page": "http://door/"})
    rounds(dispatcher, 3)

    (body,) = sink.bodies
    assert body["type"] == "schedule.missed"
    assert body["data"] == {
        "id": sink.ids[0],
        "severity": "warning",
        "title": "title of k",
        "text": "It is late.",
        "run_id": "run-1",
        "alias": "demo",
        "facts": {"late_s": 60},
        "links": {"page": "http://door/"},
    }
    (event,) = open_outbox(store).refresh().recent
    assert (event.id, event.status, event.deliveries["sink"].http_status) == (sink.ids[0], "delivered", 204)


def test_a_receiver_that_is_down_for_ten_minutes_gets_everything_once(store: Store, sink: Sink, clock: Clock) -> None:
    sink.stop()
    dispatcher = Dispatcher(store, [sink.receiver()], now=clock)
    for minute in range(10):
        notice(store, f"minute-{minute}")
        rounds(dispatcher)
        clock.now += 60
    assert not sink.ids
    sink.start()
    for _ in range(40):
        clock.now += 60
        rounds(dispatcher)

    assert len(sink.events) == 10
    assert set(sink.events.values()) == {1}
    assert not open_outbox(store).refresh().pending


def test_failures_are_repeated_on_schedule_then_dead_and_a_person_can_try_again(
    store: Store, sink: Sink, clock: Clock
) -> None:
    sink.answer = 500
    notice(store, "k")
    dispatcher = Dispatcher(store, [sink.receiver()], now=clock)
    rounds(dispatcher)
    for tries, pause_s in enumerate(SCHEDULE_S[1:], 1):
        clock.now += pause_s - 1.0
        rounds(dispatcher)
        assert len(sink.seen_headers) == tries
        clock.now += 1.0
        rounds(dispatcher)
        assert len(sink.seen_headers) == tries + 1
    (dead,) = open_outbox(store).refresh().dead.values()
    assert (dead.deliveries["sink"].attempts, dead.deliveries["sink"].http_status) == (len(SCHEDULE_S), 500)
    assert len({headers["webhook-id"] for headers in sink.seen_headers}) == 1

    sink.answer = 200
    clock.now = time.time() + 1.0  # `retry` asks the store for the time
    assert retry(store, dead.id, by="ada") == ("sink",)
    rounds(dispatcher)
    assert sink.ids == [dead.id]
    assert not open_outbox(store).refresh().dead
    with pytest.raises(NoSuchDelivery, match="delivered to everybody"):
        retry(store, dead.id, by="ada")
    with pytest.raises(NoSuchDelivery, match="not in the outbox"):
        retry(store, "nothing:0:0", by="ada")


def test_gone_is_believed_at_once(store: Store, sink: Sink) -> None:
    sink.answer = 410
    notice(store, "k")
    rounds(Dispatcher(store, [sink.receiver()]), 2)
    (dead,) = open_outbox(store).refresh().dead.values()
    assert dead.deliveries["sink"].attempts == 1


def test_redirects_are_not_followed(store: Store, make_sink: Callable[..., Sink]) -> None:
    elsewhere = make_sink()
    sink = make_sink(answer=307, headers={"location": f"http://127.0.0.1:{elsewhere.port}/hook"})
    notice(store, "k")
    rounds(Dispatcher(store, [sink.receiver()]))
    assert not elsewhere.seen_headers
    (event,) = open_outbox(store).refresh().pending.values()
    assert "redirect" in event.deliveries["sink"].error


def test_a_receiver_may_ask_for_a_longer_pause(store: Store, sink: Sink, clock: Clock) -> None:
    sink.answers, sink.headers = [429], {"retry-after": "900"}
    notice(store, "k")
    dispatcher = Dispatcher(store, [sink.receiver()], now=clock)
    rounds(dispatcher)
    clock.now += 899
    rounds(dispatcher)
    assert not sink.ids
    clock.now += 2
    rounds(dispatcher)
    assert len(sink.ids) == 1


def test_a_receiver_that_hangs_holds_up_neither_the_round_nor_another_receiver(
    store: Store, make_sink: Callable[..., Sink]
) -> None:
    stuck, well = make_sink(answer="hang"), make_sink()
    receivers = [stuck.receiver(name="stuck", timeout_s=30.0), well.receiver(name="well")]
    dispatcher = Dispatcher(store, receivers)
    for number in range(5):
        notice(store, f"k{number}")
    began = time.monotonic()
    dispatcher.round()
    deadline = time.monotonic() + 60
    while len(well.ids) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(well.ids) == 5
    assert time.monotonic() - began < 25.0
    notice(store, "later")
    dispatcher.round()
    while len(well.ids) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(well.ids) == 6
    assert len(stuck.seen_headers) == 1


def test_a_time_out_is_a_failure_that_is_repeated(store: Store, sink: Sink, clock: Clock) -> None:
    sink.answers = ["hang"]
    notice(store, "k")
    dispatcher = Dispatcher(store, [sink.receiver(timeout_s=0.3)], now=clock)
    rounds(dispatcher)
    (event,) = open_outbox(store).refresh().pending.values()
    assert event.deliveries["sink"].error == "no answer within 0.3 s"
    clock.now += 5
    rounds(Dispatcher(store, [sink.receiver()], now=clock))
    assert len(sink.ids) == 1


def test_a_kill_between_post_and_receipt_repeats_the_same_id(store: Store, sink: Sink, clock: Clock) -> None:
    notice(store, "k")
    program = (
        "import sys; from workflows.log import open_store; from workflows.outbox import Dispatcher, Receiver; "
        "d = Dispatcher(open_store(sys.argv[1]), [Receiver(name='sink', url=sys.argv[2], secret=sys.argv[3])]); "
        "d.round(); d.wait()"
    )
    url = f"http://127.0.0.1:{sink.port}/hook"
    died = subprocess.run(
        [sys.executable, "-c", program, store.uri, url, SECRET],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "EVERLOOP_FAILPOINT": "outbox.deliver.after-post=kill"},
        check=False,
        timeout=120,
    )
    assert died.returncode == -9
    assert len(sink.ids) == 1

    clock.now = time.time()
    dispatcher = Dispatcher(store, [sink.receiver()], now=clock)
    rounds(dispatcher)
    assert len(sink.ids) == 1, "the dead process has it in hand until its claim runs out"
    clock.now += CLAIM_S + 1
    rounds(dispatcher, 2)
    assert len(sink.ids) == 2
    assert len(sink.events) == 1
    assert not open_outbox(store).refresh().pending


def test_two_dispatchers_lose_nothing_and_send_nothing_twice(store: Store, sink: Sink) -> None:
    dispatchers = [Dispatcher(store, [sink.receiver()]) for _ in range(2)]

    def work(dispatcher: Dispatcher) -> None:
        for _ in range(12):
            rounds(dispatcher)

    threads = [threading.Thread(target=work, args=(dispatcher,)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    for number in range(40):
        notice(store, f"k{number}")
    for thread in threads:
        thread.join(120)
    rounds(dispatchers[0])

    assert len(sink.events) == 40
    assert set(sink.events.values()) == {1}


def test_more_than_a_batch_is_delivered_in_order_over_several_rounds(store: Store, sink: Sink) -> None:
    for number in range(MAX_BATCH + 5):
        notice(store, f"k{number:03}")
    dispatcher = Dispatcher(store, [sink.receiver()])
    rounds(dispatcher)
    assert len(sink.ids) == MAX_BATCH
    rounds(dispatcher)
    assert [body["data"]["title"] for body in sink.bodies] == [f"title of k{n:03}" for n in range(MAX_BATCH + 5)]


def test_receivers_get_what_they_asked_for(store: Store, make_sink: Callable[..., Sink]) -> None:
    everything, urgent, few = make_sink(), make_sink(), make_sink()
    receivers = [
        everything.receiver(name="everything", events=["*", "!approval.requested"]),
        urgent.receiver(name="urgent", min_severity="critical"),
        few.receiver(name="few", events=["run.*", "approval.requested"], headers={"x-everloop-token": "t0ken"}),
    ]
    for event, severity in (("run.failed", "critical"), ("approval.requested", "warning"), ("drift.alarm", "info")):
        notice(store, event, event=event, severity=severity)
    rounds(Dispatcher(store, receivers))

    def taken(sink: Sink) -> list[str]:
        return [body["type"] for body in sink.bodies]

    assert taken(everything) == ["run.failed", "drift.alarm"]
    assert taken(urgent) == ["run.failed"]
    assert taken(few) == ["run.failed", "approval.requested"]
    assert few.seen_headers[0]["x-everloop-token"] == "t0ken"


def test_a_dispatcher_without_receivers_takes_nothing_from_one_that_has_some(store: Store, sink: Sink) -> None:
    notice(store, "k")
    assert Dispatcher(store, []).round().found == 0
    rounds(Dispatcher(store, [sink.receiver()]))
    assert len(sink.ids) == 1


def test_what_there_is_nothing_to_decide_about_is_not_sent(store: Store, sink: Sink) -> None:
    notice(store, "k")
    rounds(Dispatcher(store, [sink.receiver()], links=lambda _: None))
    assert not sink.seen_headers
    assert open_outbox(store).refresh().recent[0].status == "moot"


def test_a_message_that_cannot_be_made_holds_up_none_behind_it_and_ends_as_a_dead_letter(
    store: Store, sink: Sink, clock: Clock
) -> None:
    for key in ("bad", "good"):
        notice(store, key)

    def links(found: Found) -> dict[str, str]:
        if found.notification.title == "title of bad":
            raise LookupError("no such page")
        return {}

    dispatcher = Dispatcher(store, [sink.receiver()], links=links, now=clock)
    rounds(dispatcher)
    assert [body["data"]["title"] for body in sink.bodies] == ["title of good"]
    for pause_s in SCHEDULE_S[1:]:
        clock.now += pause_s
        rounds(dispatcher)
    (dead,) = open_outbox(store).refresh().dead.values()
    assert (dead.title, dead.deliveries["sink"].error) == ("title of bad", "no links can be made: LookupError")


def test_a_receiver_that_was_taken_out_of_the_settings_is_given_up_in_the_end(
    store: Store, sink: Sink, clock: Clock
) -> None:
    sink.answer = 500
    notice(store, "k")
    rounds(Dispatcher(store, [sink.receiver(name="old")], now=clock))
    clock.now += ORPHANED_S / 2
    others = Dispatcher(store, [sink.receiver(name="new")], now=clock)
    rounds(others)
    assert open_outbox(store).refresh().pending
    clock.now += ORPHANED_S
    rounds(others)
    (dead,) = open_outbox(store).refresh().dead.values()
    assert dead.deliveries["old"].error == "no such receiver is set"


def test_secrets_reach_neither_records_nor_messages(store: Store, sink: Sink) -> None:
    closed = Receiver(
        name="closed",
        url="http://127.0.0.1:9/services/T0000/very-secret-path?key=very-secret-key",
        secret=SECRET,
        headers={"authorization": "very-secret-header"},
    )
    quoted = 'very-secret-"value"'
    notice(store, "k", text="the step said: very-secret-value", facts={"env": [quoted]})
    rounds(Dispatcher(store, [closed, sink.receiver()], redactor=Redactor(["very-secret-value", quoted])))

    assert sink.bodies[0]["data"]["facts"] == {"env": ["[redacted]"]}
    written = b"".join(store.get(info.key) for info in store.list("outbox"))
    assert b"closed" in written
    assert b"very-secret" not in written
    assert SECRET.encode() not in written
    assert sink.bodies[0]["data"]["text"] == "the step said: [redacted]"
    assert "very-secret" not in repr(closed)


def test_receipts_tell_each_attempt(store: Store, sink: Sink, clock: Clock) -> None:
    sink.answers = [503]
    notice(store, "k")
    dispatcher = Dispatcher(store, [sink.receiver()], now=clock)
    rounds(dispatcher)
    clock.now += 5
    rounds(dispatcher)
    attempts = [record.data for record in stored_records(store, "outbox") if record.kind == "attempted"]
    assert [(each["outcome"], each["status"]) for each in attempts] == [("failed", 503), ("delivered", 204)]
    assert open_outbox(store).refresh().num_outcomes == {("sink", "failed"): 1, ("sink", "delivered"): 1}
