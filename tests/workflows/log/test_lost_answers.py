"""A real S3 behind a network that loses answers: each kind of write, each kind of loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.log.counting import Ledger, close, move
from tests.workflows.log.faulty_s3 import Action, Fault, FaultyS3
from workflows.log import Blobs, Closed, Draft, Log, StoreError, StoreFull, StoreUnavailable, open_store

LOSSES: list[Action] = ["apply-500", "apply-drop", "fail-503", "drop", "hang"]


@pytest.mark.parametrize("action", LOSSES)
@pytest.mark.parametrize("kind", ["moved", "closed", "noted"])
def test_a_record_is_written_once(faulty_s3: FaultyS3, faulty_storage: str, action: Action, kind: str) -> None:
    log = Log(open_store(faulty_storage), "l", Ledger())
    log.append(move("first", 1))
    faulty_s3.faults.append(Fault("PUT", f"/l/{1:020}", action))

    decide = {"moved": move("second", 1), "closed": close, "noted": lambda _: Draft("noted", {})}[kind]
    record = log.append(decide)

    assert record is not None
    assert (record.index, record.kind) == (1, kind)
    assert faulty_s3.faults[0].hits == 1
    assert [found.record_id for found in Log(open_store(faulty_storage), "l", Ledger()).records(1)] == [
        record.record_id
    ]


def test_a_record_is_written_once_though_every_answer_is_lost(faulty_s3: FaultyS3, faulty_storage: str) -> None:
    log = Log(open_store(faulty_storage), "l", Ledger())
    faulty_s3.faults.append(Fault("PUT", "/l/0", "apply-drop", times=1_000))

    for number in range(3):
        assert log.append(move(str(number), 1)) is not None

    assert log.verify().length == 3


def test_an_answer_lost_to_a_rival_is_a_lost_slot(faulty_s3: FaultyS3, faulty_storage: str) -> None:
    store = open_store(faulty_storage)
    mine, theirs = Log(store, "l", Ledger()), Log(store, "l", Ledger())
    mine.append(move("first", 1))
    theirs.append(close)
    faulty_s3.faults.append(Fault("PUT", f"/l/{1:020}", "apply-500", times=20))

    with pytest.raises(Closed):
        mine.append(move("second", 1))


@pytest.mark.parametrize("action", LOSSES)
def test_readers_ask_again(faulty_s3: FaultyS3, faulty_storage: str, action: Action) -> None:
    Log(open_store(faulty_storage), "l", Ledger()).append(move("first", 1))
    faulty_s3.faults.append(Fault("GET", "/l/0", action))

    assert Log(open_store(faulty_storage), "l", Ledger()).state.balance == 1


@pytest.mark.parametrize("action", LOSSES)
def test_a_blob_is_kept(faulty_s3: FaultyS3, faulty_storage: str, action: Action, tmp_path: Path) -> None:
    blobs = Blobs(open_store(faulty_storage))
    source = tmp_path / "file"
    source.write_bytes(b"streamed")
    faulty_s3.faults += [Fault("PUT", "/blobs/", action), Fault("HEAD", "/blobs/", action)]

    kept, streamed = blobs.put(b"value"), blobs.put_file(source)

    assert [fault.hits for fault in faulty_s3.faults] == [1, 1]
    assert (blobs.get(kept), blobs.get(streamed)) == (b"value", b"streamed")


@pytest.mark.parametrize("action", ["apply-500", "fail-503", "drop", "apply-drop"])
@pytest.mark.parametrize(("method", "part"), [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId")])
def test_a_big_blob_is_kept_whole(
    faulty_s3: FaultyS3, faulty_storage: str, action: Action, method: str, part: str, tmp_path: Path
) -> None:
    blobs = Blobs(open_store(faulty_storage))
    source = tmp_path / "file"
    source.write_bytes(bytes(range(251)) * 100_000)
    faulty_s3.faults.append(Fault(method, part, action))

    ref = blobs.put_file(source)

    assert faulty_s3.faults[0].hits == 1
    assert blobs.get(ref) == source.read_bytes()


def test_a_full_store_is_reported_at_once_and_goes_on_when_there_is_room(
    faulty_s3: FaultyS3, faulty_storage: str
) -> None:
    log = Log(open_store(faulty_storage), "l", Ledger())
    log.append(move("first", 1))
    faulty_s3.faults.append(Fault("PUT", "/l/0", "full-507", times=1_000))

    with pytest.raises(StoreFull):
        log.append(move("second", 1))
    faulty_s3.faults.clear()
    log.append(move("second", 1))

    assert log.state.operations == ("first", "second")


def test_a_store_that_stays_away_is_reported(faulty_s3: FaultyS3, faulty_storage: str) -> None:
    log = Log(open_store(faulty_storage), "l", Ledger(), max_attempts=2)
    log.append(move("first", 1))
    faulty_s3.faults += [Fault(method, "/l/", "fail-503", times=1_000) for method in ("PUT", "GET")]

    with pytest.raises(StoreUnavailable):
        log.append(move("second", 1))


def test_snapshots_that_cannot_be_written_cost_nothing_but_time(
    faulty_s3: FaultyS3, faulty_storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.log.log.EVERY", 2)
    log = Log(open_store(faulty_storage), "l", Ledger())
    faulty_s3.faults.append(Fault("PUT", "/snapshots/", "full-507", times=1_000))

    for number in range(5):
        log.append(move(str(number), 1))

    assert faulty_s3.faults[0].hits > 0
    assert Log(open_store(faulty_storage), "l", Ledger()).state.balance == 5


def test_every_failure_is_an_error_of_ours(faulty_s3: FaultyS3, faulty_storage: str, tmp_path: Path) -> None:
    store = open_store(faulty_storage)
    faulty_s3.faults += [
        Fault(method, "/", "drop", times=10_000) for method in ("GET", "HEAD", "PUT", "POST", "DELETE")
    ]
    (tmp_path / "file").write_bytes(b"x")

    for call in (
        lambda: store.create("a", b""),
        lambda: store.put("a", b""),
        lambda: store.get("a"),
        lambda: store.head("a"),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
        lambda: store.upload("a", tmp_path / "file"),
        lambda: store.download("a", tmp_path / "copy"),
        store.now,
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert isinstance(caught.value, StoreUnavailable)
