from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.log.counting import Account, Ledger, MemoryStore, Overdrawn, close, move
from workflows.log import (
    AlreadyExists,
    Closed,
    CorruptRecord,
    Draft,
    InvalidKey,
    InvalidRecord,
    Log,
    NotFound,
    Record,
    Store,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
    UnsupportedFormat,
    fork_log,
    list_logs,
    open_store,
)
from workflows.log.log import MAX_ATTEMPTS
from workflows.log.record import FIRST, digest, record_key


def filled(store: Store, name: str, num_records: int) -> Log[Account]:
    log = Log(store, name, Ledger())
    for number in range(num_records):
        log.append(move(f"op-{number}", 1))
    return log


def test_a_new_log_has_the_initial_state(ledger: Log[Account]) -> None:
    assert ledger.state == Account()
    assert ledger.length == 0
    assert list(ledger.records()) == []


def test_an_appended_record_is_folded_and_stored(ledger: Log[Account], store: Store) -> None:
    record = ledger.append(move("salary", 100))

    assert record is not None
    assert (record.index, record.kind, dict(record.data), record.previous) == (
        0,
        "moved",
        {"operation": "salary", "amount": 100},
        FIRST,
    )
    assert ledger.state == Account(100, ("salary",))
    assert list(Log(store, ledger.name, Ledger()).records()) == [record]


def test_records_continue_the_chain(ledger: Log[Account], store: Store) -> None:
    for number in range(3):
        ledger.append(move(str(number), 1))

    previous = FIRST
    for index, record in enumerate(ledger.records()):
        assert (record.index, record.previous) == (index, previous)
        previous = digest(store.get(record_key(ledger.name, index)))
    assert [record.index for record in ledger.records(2)] == [2]


def test_what_is_folded_is_what_readers_read(ledger: Log[Account], store: Store) -> None:
    data = {"operation": "a", "amount": 1, "tags": ("x", "y")}
    record = ledger.append(lambda _: Draft("moved", data, notify=({"to": "someone"},)))
    data["amount"] = 7

    assert record is not None
    assert record.data == {"operation": "a", "amount": 1, "tags": ["x", "y"]}
    assert next(Log(store, ledger.name, Ledger()).records()) == record
    assert record.notify == ({"to": "someone"},)


def test_nothing_to_do_writes_nothing(ledger: Log[Account]) -> None:
    ledger.append(move("once", 1))

    assert ledger.append(move("once", 1)) is None
    assert ledger.length == 1


def test_a_refusal_writes_nothing(ledger: Log[Account]) -> None:
    with pytest.raises(Overdrawn):
        ledger.append(move("rent", -1))

    assert list(ledger.records()) == []


def test_a_lost_slot_is_folded_and_decided_again(store: Store) -> None:
    mine, theirs = Log(store, "l", Ledger()), Log(store, "l", Ledger())
    mine.append(move("a", 10))
    theirs.append(move("b", -10))

    with pytest.raises(Overdrawn):
        mine.append(move("c", -10))

    assert mine.state == Account(0, ("a", "b"))


def test_a_refusal_of_an_old_state_is_not_believed(store: Store) -> None:
    mine, theirs = Log(store, "l", Ledger()), Log(store, "l", Ledger())
    assert mine.length == 0
    theirs.append(move("salary", 10))

    record = mine.append(move("rent", -10))

    assert record is not None
    assert record.index == 1


def test_nothing_to_do_in_an_old_state_is_not_believed(store: Store) -> None:
    mine, theirs = Log(store, "l", Ledger()), Log(store, "l", Ledger())
    mine.append(lambda _: Draft("opened", {}))
    theirs.append(close)

    assert mine.append(lambda state: Draft("noted", {}) if state.is_closed else None) is not None


def test_a_closed_log_takes_no_more(store: Store) -> None:
    mine, theirs = Log(store, "l", Ledger()), Log(store, "l", Ledger())
    mine.append(move("a", 1))
    theirs.append(close)

    with pytest.raises(Closed):
        mine.append(move("b", 1))


def test_refresh_folds_what_others_wrote_and_costs_one_read_otherwise() -> None:
    store = MemoryStore()
    mine, theirs = Log(store, "l", Ledger()), Log(store, "l", Ledger())
    assert mine.state.balance == 0
    theirs.append(move("a", 5))

    assert mine.refresh().balance == 5
    before = store.num_gets
    mine.refresh()
    assert store.num_gets - before == 1


def test_an_append_costs_no_read_and_no_listing() -> None:
    store = MemoryStore()
    log = filled(store, "l", 1)
    before = store.num_gets

    log.append(move("more", 1))

    assert (store.num_gets - before, store.num_creates) == (0, 2)


def test_threads_share_a_log(ledger: Log[Account]) -> None:
    def work(name: str) -> None:
        for number in range(10):
            ledger.append(move(f"{name}-{number}", 1))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ledger.state.balance == 40
    assert len(set(ledger.state.operations)) == 40


@pytest.mark.parametrize("fault", ["lost", "failed", "late"])
def test_an_unclear_answer_neither_loses_nor_doubles(fault: str) -> None:
    store = MemoryStore(faults={1: fault})
    log = filled(store, "l", 3)

    assert log.state == Account(3, ("op-0", "op-1", "op-2"))
    assert Log(store, "l", Ledger()).state == log.state


def test_answers_that_are_all_lost_are_found_in_the_slot() -> None:
    store = MemoryStore(faults=dict.fromkeys(range(100), "lost"))

    assert filled(store, "l", 3).state.balance == 3


def test_a_store_that_stays_away_is_reported_and_nothing_is_lost() -> None:
    store = MemoryStore(faults=dict.fromkeys(range(1, 3), "failed"))
    log = Log(store, "l", Ledger(), max_attempts=2)
    log.append(move("a", 1))

    with pytest.raises(StoreUnavailable):
        log.append(move("b", 1))
    log.append(move("b", 1))

    assert log.state == Account(2, ("a", "b"))
    assert MAX_ATTEMPTS > 2


def test_a_write_that_lands_after_it_was_given_up_is_not_doubled() -> None:
    store = MemoryStore(faults={0: "late"})
    log = Log(store, "l", Ledger(), max_attempts=1)
    with pytest.raises(StoreUnavailable):
        log.append(move("a", 1))
    for _ in range(5):
        store.head("l")
        with pytest.raises(NotFound):
            store.get("other")

    assert log.append(move("a", 1)) is None
    assert log.state == Account(1, ("a",))


def test_errors_that_no_repetition_heals_are_raised_at_once() -> None:
    class FullStore(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            self.num_creates += 1
            raise StoreFull(self.uri, key, "no space")

    store = FullStore()

    with pytest.raises(StoreFull):
        Log(store, "l", Ledger()).append(move("a", 1))
    assert store.num_creates == 1


def test_a_slot_that_is_said_to_be_taken_and_is_free_is_written_again() -> None:
    """S3 answers 409 to the loser of two conditional writes at once, even if the winner then fails."""

    class Conflicting(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            self.num_creates += 1
            if self.num_creates == 1:
                raise AlreadyExists(self.uri, key)
            super().create(key, data)

    log = Log(Conflicting(), "l", Ledger())

    assert log.append(move("a", 1)) is not None
    assert log.verify().length == 1


def test_an_error_after_the_write_is_no_error() -> None:
    class Grudging(MemoryStore):
        def create(self, key: str, data: bytes) -> None:
            super().create(key, data)
            raise StoreDenied(self.uri, key, "said after it was done")

    log = Log(Grudging(), "l", Ledger())

    assert log.append(move("a", 1)) is not None
    assert log.state.balance == 1


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Draft("", {}), "a kind matches"),
        (Draft("two words", {}), "a kind matches"),
        (Draft("a", {"x": float("nan")}), r"data\.x is nan"),
        (Draft("a", {"x": [1, float("inf")]}), r"data\.x\[1\] is inf"),
        (Draft("a", {"x": {1: 2}}), "no string"),
        (Draft("a", {"x": Path("y")}), "PosixPath"),
        (Draft("a", {"x": b"y"}), "bytes"),
        (Draft("a", {"x": 10**5000}), "digits"),
        (Draft("a", {}, notify=({"x": {1}},)), "set"),
        (Draft("large", {"x": "y" * 2**20}), "1,048,"),
    ],
)
def test_a_draft_that_cannot_be_stored_is_refused_with_its_kind(draft: Draft, reason: str) -> None:
    store = MemoryStore()

    with pytest.raises(InvalidRecord, match=reason) as caught:
        Log(store, "l", Ledger()).append(lambda _: draft)

    assert caught.value.kind == draft.kind
    assert store.objects == {}


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(InvalidRecord, match="nested deeper"):
        Log(MemoryStore(), "l", Ledger()).append(lambda _: Draft("a", {"loop": loop}))


def test_text_of_every_kind_survives(ledger: Log[Account]) -> None:
    text = '\0 \u2028 \ud800 \U0001f600 \\ " ä'
    ledger.append(lambda _: Draft("noted", {text: text}))

    assert next(ledger.records()).data == {text: text}


def test_an_unsafe_name_is_refused(store: Store) -> None:
    with pytest.raises(InvalidKey):
        Log(store, "runs/../x", Ledger())


def test_two_logs_do_not_meet(store: Store) -> None:
    filled(store, "runs/a", 2)
    filled(store, "runs/a/inner", 3)
    filled(store, "runs/ab", 1)

    assert [Log(store, name, Ledger()).length for name in ("runs/a", "runs/a/inner", "runs/ab")] == [2, 3, 1]


def test_logs_are_listed_by_their_first_record(store: Store) -> None:
    for name in ("runs/a", "runs/a-b", "runs/b", "outcomes/x/w-1", "outcomes/x/w-2", "signals"):
        filled(store, name, 2)
    store.put("runs/c/live/1", b"")
    store.put("runs/b/steps/out", b"")

    assert list_logs(store, "runs") == ["runs/a", "runs/a-b", "runs/b"]
    assert list_logs(store, "outcomes") == ["outcomes/x/w-1", "outcomes/x/w-2"]
    assert list_logs(store, "") == ["outcomes/x/w-1", "outcomes/x/w-2", "runs/a", "runs/a-b", "runs/b", "signals"]
    assert list_logs(store, "nothing") == []


def test_a_whole_log_verifies(store: Store) -> None:
    log = filled(store, "l", 5)

    verification = log.verify()

    assert (verification.ok, verification.length, verification.first_bad, verification.reason) == (True, 5, None, "")
    assert verification.head == digest(store.get(record_key("l", 4)))


@pytest.mark.parametrize("place", [0, 7, 100, -2, -1])
def test_a_changed_byte_is_detected(store: Store, place: int) -> None:
    filled(store, "l", 5)
    data = bytearray(store.get(record_key("l", 2)))
    data[place] ^= 1
    store.put(record_key("l", 2), data)

    verification = Log(store, "l", Ledger()).verify()

    assert not verification.ok
    assert verification.first_bad in (2, 3)  # A change that leaves JSON is seen by the record that keeps its digest.
    assert verification.length == verification.first_bad
    assert "log l: record" in verification.reason


def test_a_torn_record_names_log_and_index(store: Store) -> None:
    filled(store, "l", 3)
    store.put(record_key("l", 1), store.get(record_key("l", 1))[:40])

    with pytest.raises(CorruptRecord, match="log l: record 1") as caught:
        Log(store, "l", Ledger()).refresh()

    assert (caught.value.log, caught.value.index) == ("l", 1)


def test_an_edited_record_stops_readers_before_they_believe_what_follows(store: Store) -> None:
    filled(store, "l", 3)
    edited = json.loads(store.get(record_key("l", 1)))
    edited["data"]["amount"] = 1_000
    store.put(record_key("l", 1), json.dumps(edited).encode())

    with pytest.raises(CorruptRecord, match="record 2"):
        Log(store, "l", Ledger()).refresh()


def test_a_record_in_the_wrong_place_is_corrupt(store: Store) -> None:
    filled(store, "l", 3)
    store.put(record_key("l", 1), store.get(record_key("l", 2)))

    with pytest.raises(CorruptRecord, match="says that it is record 2"):
        Log(store, "l", Ledger()).refresh()


def test_a_missing_record_is_found_by_verification(store: Store) -> None:
    log = filled(store, "l", 5)
    store.delete(record_key("l", 2))

    verification = log.verify()

    assert (verification.ok, verification.length, verification.first_bad) == (False, 2, 2)
    assert "missing" in verification.reason


@pytest.mark.parametrize(
    ("found", "words"), [(2, "a newer version"), (0, "an unknown version"), ("x", "an unknown version")]
)
def test_a_record_of_another_format_is_refused_by_name(store: Store, found: object, words: str) -> None:
    filled(store, "l", 2)
    raw = json.loads(store.get(record_key("l", 1)))
    raw["format"] = found
    store.put(record_key("l", 1), json.dumps(raw).encode())

    with pytest.raises(UnsupportedFormat, match=words) as caught:
        Log(store, "l", Ledger()).refresh()
    assert (caught.value.log, caught.value.index) == ("l", 1)
    assert Log(store, "l", Ledger()).verify().first_bad == 1


def test_a_corrupt_log_goes_on_as_a_fork(store: Store) -> None:
    filled(store, "l", 5)
    store.put(record_key("l", 3), b"{")
    bad = Log(store, "l", Ledger()).verify().first_bad
    assert bad == 3

    for _ in range(2):
        assert fork_log(store, "l", "l-repaired", bad).ok
    fork = Log(store, "l-repaired", Ledger())
    fork.append(move("after", 1))

    assert fork.state.operations == ("op-0", "op-1", "op-2", "after")
    assert fork.verify().ok


def test_a_fork_copies_only_what_can_be_trusted(store: Store) -> None:
    filled(store, "l", 3)
    filled(store, "other", 1)
    store.put(record_key("l", 1), b"{")

    with pytest.raises(CorruptRecord):
        fork_log(store, "l", "m", 3)
    with pytest.raises(NotFound):
        fork_log(store, "other", "n", 2)
    with pytest.raises(AlreadyExists):
        fork_log(store, "l", "other", 1)


def test_a_store_travels_and_a_log_is_opened_where_it_arrives(store: Store) -> None:
    filled(store, "l", 2)

    assert Log(pickle.loads(pickle.dumps(store)), "l", Ledger()).length == 2


def test_the_user_program_of_the_docstring_works(tmp_path: Path) -> None:
    class Counter:
        def initial(self) -> int:
            return 0

        def apply(self, state: int, record: Record) -> int:
            return state + int(record.data["by"])

        def dump(self, state: int) -> int:
            return state

        def load(self, data: int) -> int:
            return data

    log = Log(open_store(f"file://{tmp_path}"), "counters/visits", Counter())
    visits: Iterable[Record | None] = [
        log.append(lambda total: Draft("visited", {"by": 1}) if total < 2 else None) for _ in range(3)
    ]

    assert [visit is None for visit in visits] == [False, False, True]
    assert log.state == 2
