"""What was done to an audit log is found. Each case starts from a log that verifies."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workflows.access import AuditLog, Checkpoint, SigningKey, signing_key, verify_audit
from workflows.access.audit import CHECKPOINT_LOG, AuditFold
from workflows.log import Draft, Log, Store, open_store

NUM_RECORDS = 6


def name(index: int, log: str = "audit/w") -> str:
    return f"{log}/{index:020d}.json"


@pytest.fixture
def written(folder_store: Store, key: SigningKey) -> Store:
    with AuditLog(folder_store, "w", key) as audit:
        for number in range(NUM_RECORDS):
            audit.event("e", n=number)
    report = verify_audit(folder_store, [key.public])
    assert report.ok
    assert (report.logs[0].num_records, report.logs[0].num_anchored) == (NUM_RECORDS, NUM_RECORDS)
    return folder_store


def kinds(store: Store, key: SigningKey) -> set[str]:
    return {finding.kind for finding in verify_audit(store, [key.public]).findings}


def edit(store: Store, index: int) -> None:
    store.put(name(index), store.get(name(index)).replace(b'"n":', b'"m":'))


def swap(store: Store, first: int, second: int) -> None:
    one, two = store.get(name(first)), store.get(name(second))
    store.put(name(first), two)
    store.put(name(second), one)


def cut(store: Store, index: int, num_bytes: int) -> None:
    store.put(name(index), store.get(name(index))[:num_bytes])


def truncate(store: Store, keep: int) -> None:
    for index in range(keep, NUM_RECORDS):
        store.delete(name(index))


def remove(store: Store, folder: str) -> None:
    for info in list(store.list(folder)):
        store.delete(info.key)


def rewrite(store: Store, start: int) -> None:
    """The same number of records with the same lengths, chained anew: the chain itself is whole."""
    old = [store.get(name(index)) for index in range(NUM_RECORDS)]
    truncate(store, start)
    log = Log(store, "audit/w", AuditFold())
    for data in old[start:]:
        entries = json.loads(data)["data"]["entries"]
        log.append(lambda _, entries=entries: Draft("decisions", {"entries": [{**entries[0], "n": 9}]}))  # type: ignore[misc]
    assert log.verify().ok
    assert log.length == NUM_RECORDS


TAMPERINGS: dict[str, tuple[Callable[[Store], None], str]] = {
    "first record edited": (lambda store: edit(store, 0), "broken_chain"),
    "middle record edited": (lambda store: edit(store, 3), "broken_chain"),
    "last record edited": (lambda store: edit(store, NUM_RECORDS - 1), "rewritten"),
    "first record deleted": (lambda store: store.delete(name(0)), "broken_chain"),
    "middle record deleted": (lambda store: store.delete(name(3)), "broken_chain"),
    "two records swapped": (lambda store: swap(store, 1, 2), "broken_chain"),
    "last two swapped": (lambda store: swap(store, NUM_RECORDS - 2, NUM_RECORDS - 1), "broken_chain"),
    "tail cut off": (lambda store: truncate(store, 4), "truncated"),
    "all records removed": (lambda store: truncate(store, 0), "truncated"),
    "middle record emptied": (lambda store: cut(store, 2, 0), "broken_chain"),
    "last record emptied": (lambda store: cut(store, NUM_RECORDS - 1, 0), "torn_tail"),
    "last record torn": (lambda store: cut(store, NUM_RECORDS - 1, 100), "torn_tail"),
    "tail rewritten with the same length": (lambda store: rewrite(store, 3), "rewritten"),
    "all rewritten with the same length": (lambda store: rewrite(store, 0), "rewritten"),
    "checkpoints removed": (lambda store: remove(store, CHECKPOINT_LOG), "no_checkpoints"),
    "first checkpoint removed": (lambda store: store.delete(name(0, CHECKPOINT_LOG)), "broken_checkpoints"),
}


@pytest.mark.parametrize("case", TAMPERINGS)
def test_tampering_is_found(case: str, written: Store, key: SigningKey) -> None:
    tamper, expected = TAMPERINGS[case]
    tamper(written)
    assert expected in kinds(written, key)


def _forge(store: Store, checkpoint: Checkpoint) -> None:
    Log(store, CHECKPOINT_LOG, AuditFold()).append(lambda _: Draft("checkpoint", dataclasses.asdict(checkpoint)))


class TestForgedCheckpoints:
    @pytest.fixture
    def genuine(self, written: Store) -> Checkpoint:
        *_, last = Log(written, CHECKPOINT_LOG, AuditFold()).records()
        return Checkpoint(**last.data)

    def test_one_of_another_key_under_its_own_name(
        self, written: Store, key: SigningKey, genuine: Checkpoint, tmp_path: Path
    ) -> None:
        other = signing_key(tmp_path / "other")
        fake = dataclasses.replace(genuine, count=3, key=other.public.id)
        _forge(written, dataclasses.replace(fake, signature=other.sign(fake.message())))
        assert kinds(written, key) == {"forged_checkpoint"}

    def test_one_of_another_key_under_the_name_of_ours(
        self, written: Store, key: SigningKey, genuine: Checkpoint, tmp_path: Path
    ) -> None:
        fake = dataclasses.replace(genuine, count=3)
        _forge(written, dataclasses.replace(fake, signature=signing_key(tmp_path / "other").sign(fake.message())))
        assert kinds(written, key) == {"forged_checkpoint"}

    @pytest.mark.parametrize(
        "change", [{"count": 2}, {"head": "0" * 64}, {"log": "audit/x"}, {"at": 0.0}, {"signature": ""}]
    )
    def test_a_genuine_one_with_a_changed_field(
        self, change: dict[str, object], written: Store, key: SigningKey, genuine: Checkpoint
    ) -> None:
        _forge(written, dataclasses.replace(genuine, **change))  # type: ignore[arg-type]
        assert kinds(written, key) == {"forged_checkpoint"}

    def test_one_that_is_no_checkpoint(self, written: Store, key: SigningKey) -> None:
        Log(written, CHECKPOINT_LOG, AuditFold()).append(lambda _: Draft("checkpoint", {"log": "audit/w"}))
        assert kinds(written, key) == {"forged_checkpoint"}

    def test_a_repeated_genuine_one_is_no_harm(self, written: Store, key: SigningKey, genuine: Checkpoint) -> None:
        _forge(written, genuine)
        assert kinds(written, key) == set()

    def test_without_a_trusted_key_nothing_is_anchored(self, written: Store) -> None:
        report = verify_audit(written, [])
        assert not report.ok
        assert report.logs[0].num_anchored == 0


def test_a_log_that_vanished_is_missed(written: Store, key: SigningKey) -> None:
    with AuditLog(written, "x", key) as audit:
        audit.event("e")
    remove(written, "audit/x")
    assert [(finding.kind, finding.log) for finding in verify_audit(written, [key.public]).findings] == [
        ("truncated", "audit/x")
    ]


def test_checkpoints_in_a_storage_of_their_own_show_a_tail_cut_with_its_checkpoints(
    folder_store: Store, key: SigningKey, tmp_path: Path
) -> None:
    anchors = open_store(f"file://{tmp_path}/anchors")
    with AuditLog(folder_store, "w", key, anchors=anchors) as audit:
        for number in range(NUM_RECORDS):
            audit.event("e", n=number)
    assert verify_audit(folder_store, [key.public], anchors=anchors).ok
    truncate(folder_store, 2)
    assert [f.kind for f in verify_audit(folder_store, [key.public], anchors=anchors).findings] == ["truncated"]


def test_a_checkpoint_kept_elsewhere_shows_what_the_storage_hides(written: Store, key: SigningKey) -> None:
    *_, last = Log(written, CHECKPOINT_LOG, AuditFold()).records()
    kept = Checkpoint(**last.data)
    remove(written, "")
    assert verify_audit(written, [key.public]).ok
    assert [finding.kind for finding in verify_audit(written, [key.public], known=[kept]).findings] == ["truncated"]


def test_records_behind_the_last_checkpoint_are_counted(written: Store, key: SigningKey) -> None:
    Log(written, "audit/w", AuditFold()).append(lambda _: Draft("decisions", {"entries": []}))
    report = verify_audit(written, [key.public])
    assert report.ok
    assert (report.logs[0].num_records, report.logs[0].num_anchored) == (NUM_RECORDS + 1, NUM_RECORDS)
