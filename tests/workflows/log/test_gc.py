from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflows.log.counting import Ledger, MemoryStore
from workflows.log import (
    BlobRef,
    Blobs,
    CorruptBlob,
    CorruptRecord,
    Draft,
    Log,
    Store,
    collect_garbage,
    encode,
    keep_reachable,
    log_references,
    references,
)
from workflows.log.record import record_key

GRACE_S = 1_000.0


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def blobs(store: MemoryStore) -> Blobs:
    return Blobs(store, grace_s=GRACE_S)


def age(store: MemoryStore, seconds: float) -> None:
    store.objects = {key: (data, at - seconds) for key, (data, at) in store.objects.items()}


def kept(store: Store) -> set[str]:
    return {info.key.rpartition("/")[2] for info in store.list("blobs")}


def test_what_nobody_names_is_deleted_after_the_grace(store: MemoryStore, blobs: Blobs) -> None:
    named, old = blobs.put(b"named"), blobs.put(b"old")
    age(store, GRACE_S + 1)
    young = blobs.put(b"young")

    collected = collect_garbage(blobs, [named])

    assert kept(store) == {named.sha256, young.sha256}
    assert (collected.deleted, collected.deleted_bytes) == ((old.sha256,), 3)
    assert (collected.num_kept, collected.num_young, collected.missing) == (1, 1, ())


def test_a_dry_run_deletes_nothing(store: MemoryStore, blobs: Blobs) -> None:
    old = blobs.put(b"old")
    age(store, GRACE_S + 1)

    assert collect_garbage(blobs, [], dry_run=True).deleted == (old.sha256,)
    assert kept(store) == {old.sha256}


def test_what_a_log_names_is_kept_with_all_that_it_names_itself(
    store: MemoryStore, blobs: Blobs, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"in a tree")
    tree, single, bare = blobs.put_tree(tmp_path), blobs.put(b"single"), blobs.put(b"bare")
    inner = blobs.put(b"named by a long value only")
    long_value = encode({"padding": list(range(10_000)), "inner": inner}, blobs)
    garbage = blobs.put(b"garbage")
    log = Log(store, "l", Ledger())
    log.append(lambda _: Draft("noted", {"tree": encode(tree, blobs), "text": f"see {bare.sha256}"}))
    log.append(lambda _: Draft("noted", {"long": long_value}, notify=({"blob": encode(single, blobs)},)))
    age(store, GRACE_S + 1)

    collected = collect_garbage(blobs, log_references(store, "l"))

    assert collected.deleted == (garbage.sha256,)
    assert blobs.tree(tree)["file"].sha256 in kept(store)
    assert {single.sha256, bare.sha256, inner.sha256, tree.sha256} <= kept(store)


def test_json_lines_are_followed_too(store: MemoryStore, blobs: Blobs) -> None:
    inner = blobs.put(b"inner")
    lines = blobs.put(f'{{"a": 1}}\n{{"b": "{inner.sha256}"}}\n'.encode(), "application/jsonl")
    age(store, GRACE_S + 1)

    assert collect_garbage(blobs, [lines]).deleted == ()


def test_a_blob_that_was_renewed_since_the_listing_stays(blobs: Blobs, store: MemoryStore) -> None:
    class Renewing(MemoryStore):
        def head(self, key: str) -> object:  # type: ignore[override]
            self.put(key, self.get(key))
            return super().head(key)

    old = blobs.put(b"old")
    age(store, GRACE_S + 1)
    renewing = Renewing(objects=store.objects)

    assert collect_garbage(Blobs(renewing, grace_s=GRACE_S), []).deleted == ()
    assert old.sha256 in kept(renewing)


def test_nothing_is_deleted_while_a_log_cannot_be_read(store: MemoryStore, blobs: Blobs) -> None:
    Log(store, "l", Ledger()).append(lambda _: Draft("noted", {"blob": encode(blobs.put(b"named"), blobs)}))
    store.put(record_key("l", 1), b"{")
    age(store, GRACE_S + 1)

    with pytest.raises(CorruptRecord):
        collect_garbage(blobs, log_references(store, "l"))
    assert len(kept(store)) == 1


def test_nothing_is_deleted_while_a_tree_cannot_be_read(store: MemoryStore, blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in a tree")
    tree = blobs.put_tree(tmp_path)
    store.put(blobs.key(tree.sha256), b"{}")
    age(store, GRACE_S + 1)

    with pytest.raises(CorruptBlob):
        collect_garbage(blobs, [tree])
    assert len(kept(store)) == 2


def test_what_is_named_and_missing_is_told(blobs: Blobs) -> None:
    lost = BlobRef("ab" * 32, 1, "application/json")

    assert collect_garbage(blobs, [lost]).missing == (lost.sha256,)


def test_references_are_found_in_any_json(blobs: Blobs) -> None:
    ref = blobs.put(b"x", "application/json")
    value = json.loads(json.dumps({"a": [{"b": encode(ref, blobs)}], "c": 1, "d": None}))

    assert BlobRef(ref.sha256, 0, "application/json") in list(references(value))


def test_what_a_new_log_will_name_is_renewed_with_all_that_it_reaches(
    store: MemoryStore, blobs: Blobs, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    tree = blobs.put_tree(tmp_path)
    table = blobs.put(b"rows")
    document = blobs.put(json.dumps(encode(table, blobs)).encode(), "application/json")
    age(store, GRACE_S * 0.9)

    missing = keep_reachable(blobs, references([encode(tree, blobs), encode(document, blobs), "f" * 64]))
    age(store, GRACE_S * 0.2)
    collected = collect_garbage(blobs, [])

    assert (missing, collected.deleted, collected.num_young) == ((), (), 4)


def test_what_is_named_and_gone_is_told(store: MemoryStore, blobs: Blobs) -> None:
    kept_blob, gone = blobs.put(b"kept"), blobs.put(b"gone")
    store.delete(blobs.key(gone.sha256))

    assert keep_reachable(blobs, references([encode(kept_blob, blobs), encode(gone, blobs)])) == (gone.sha256,)
