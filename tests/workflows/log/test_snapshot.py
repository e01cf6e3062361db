from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest

from tests.workflows.log.counting import Account, Ledger, MemoryStore, move
from workflows.log import CorruptRecord, Draft, Log, Record
from workflows.log.reading import NUM_READERS
from workflows.log.record import record_key
from workflows.log.snapshot import EVERY, KEPT, MAX_OPENED, SHARE


class Counter:
    """Counts records; its states can be told apart by version."""

    version = 1

    def initial(self) -> int:
        return 0

    def apply(self, state: int, record: Record) -> int:
        return state + 1

    def dump(self, state: int) -> Any:
        return {"count": state}

    def load(self, data: Any) -> int:
        return int(data["count"])


@pytest.fixture(scope="module")
def long_log() -> MemoryStore:
    """A log of 2,500 records, so with two snapshots."""
    store = MemoryStore()
    log = Log(store, "l", Counter())
    for number in range(2_500):
        log.append(lambda _, number=number: Draft("counted", {"number": number}))
    return store


def copy_of(store: MemoryStore) -> MemoryStore:
    return MemoryStore(objects=dict(store.objects))


def snapshot_keys(store: MemoryStore) -> list[str]:
    return [info.key for info in store.list("l/snapshots/")]


def test_a_snapshot_is_made_every_thousand_records(long_log: MemoryStore) -> None:
    assert [key.rpartition("/")[2] for key in snapshot_keys(long_log)] == [f"{EVERY:020}.json", f"{2 * EVERY:020}.json"]


def test_opening_reads_only_the_records_after_the_snapshot(long_log: MemoryStore) -> None:
    store = copy_of(long_log)

    log = Log(store, "l", Counter())

    assert (log.state, log.length) == (2_500, 2_500)
    assert store.num_gets < 600


def test_old_snapshots_are_removed(long_log: MemoryStore) -> None:
    store = copy_of(long_log)
    log = Log(store, "l", Counter())
    for _ in range(1_500):
        log.append(lambda _: Draft("counted", {}))

    assert [key.rpartition("/")[2] for key in snapshot_keys(store)] == [f"{2_501:020}.json", f"{4 * EVERY:020}.json"]
    assert KEPT == 2


def test_a_short_log_that_each_writer_opens_anew_is_read_from_a_snapshot() -> None:
    store = MemoryStore()
    for _ in range(8 * MAX_OPENED):
        Log(store, "l", Counter()).append(lambda _: Draft("counted", {}))
    before = store.num_gets

    log = Log(store, "l", Counter())

    assert log.state == 8 * MAX_OPENED
    assert store.num_gets - before <= MAX_OPENED + 2 * NUM_READERS + 4


def test_who_only_reads_writes_no_snapshot() -> None:
    store = MemoryStore()
    log = Log(store, "l", Counter())
    for _ in range(2 * MAX_OPENED):
        log.append(lambda _: Draft("counted", {}))

    assert Log(store, "l", Counter()).state == 2 * MAX_OPENED
    assert snapshot_keys(store) == []


def test_snapshots_of_a_long_log_are_a_share_of_it_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.log.log.EVERY", 1)
    dumped: list[int] = []

    class Noted(Counter):
        def dump(self, state: int) -> Any:
            dumped.append(state)
            return super().dump(state)

    log = Log(MemoryStore(), "l", Noted())
    for _ in range(20 * SHARE):
        log.append(lambda _: Draft("counted", {}))

    # One a record at first, then one for each 1/32 of the log: 32 * ln(20) of them, and not 640.
    assert len(dumped) < SHARE * 5
    assert all(after - before >= before // SHARE for before, after in itertools.pairwise(dumped))


@pytest.mark.parametrize("damage", [b"", b"{}\n{}", b"not json", b'{"format": 99}\n1'])
def test_a_damaged_snapshot_is_passed_over(
    long_log: MemoryStore, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = copy_of(long_log)
    store.put(snapshot_keys(store)[-1], damage)

    with caplog.at_level(logging.WARNING):
        assert Log(store, "l", Counter()).state == 2_500

    assert "is passed over" in caplog.text
    assert 1_000 < store.num_gets < 2_000


def test_a_log_without_snapshots_is_read_from_its_start_and_gets_one(long_log: MemoryStore) -> None:
    store = copy_of(long_log)
    for key in snapshot_keys(store):
        store.delete(key)

    log = Log(store, "l", Counter())
    assert log.state == 2_500
    log.append(lambda _: Draft("counted", {}))

    assert [key.rpartition("/")[2] for key in snapshot_keys(store)] == [f"{2_501:020}.json"]


def test_a_snapshot_of_other_records_is_not_believed(long_log: MemoryStore) -> None:
    store = copy_of(long_log)
    key = snapshot_keys(store)[-1]
    header, _, state = store.get(key).partition(b"\n")
    store.put(key, json.dumps({**json.loads(header), "head": "f" * 64}).encode() + b"\n" + state)

    assert Log(store, "l", Counter()).state == 2_500


def test_a_corrupt_record_is_found_even_behind_a_snapshot(long_log: MemoryStore) -> None:
    store = copy_of(long_log)
    store.put(record_key("l", 2_200), b"{")

    with pytest.raises(CorruptRecord, match="record 2200"):
        Log(store, "l", Counter()).refresh()


def test_a_log_cut_short_is_noticed_by_its_snapshot(long_log: MemoryStore) -> None:
    store = copy_of(long_log)
    for number in range(1_900, 2_500):
        store.delete(record_key("l", number))

    assert Log(store, "l", Counter()).verify().first_bad == 1_900
    assert Log(store, "l", Counter()).state == 1_900


def test_two_folds_of_one_log_keep_their_own_snapshots(long_log: MemoryStore) -> None:
    class NewCounter(Counter):
        version = 2

        def dump(self, state: int) -> Any:
            return [state]

        def load(self, data: Any) -> int:
            return int(data[0])

    store = copy_of(long_log)
    log = Log(store, "l", NewCounter())
    log.append(lambda _: Draft("counted", {}))

    assert Log(store, "l", NewCounter()).state == 2_501
    assert Log(store, "l", Counter()).state == 2_501


def test_a_fold_that_cannot_be_dumped_does_not_fail_the_append(caplog: pytest.LogCaptureFixture) -> None:
    class Undumpable(Ledger):
        def dump(self, state: Account) -> Any:
            return {state}

    log = Log(MemoryStore(), "l", Undumpable())
    for number in range(EVERY):
        assert log.append(move(str(number), 1)) is not None

    assert "does not dump its state" in caplog.text
