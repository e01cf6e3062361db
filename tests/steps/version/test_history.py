"""Differences between versions, tags, and the collection of what nobody names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.common.alone import AloneContext
from steps.common.dataset import read_table
from steps.common.parquet import MEDIA_TYPE
from steps.common.results import DatasetVersion, ValidationResult
from steps.version import VersionConfig, open_dataset, run
from steps.version.history import collect, diff, tag
from tests.workflows.log.counting import MemoryStore
from workflows.log import BlobRef, Blobs, CorruptRecord, Draft, Log, ObjectInfo, Record, Store, encode, open_store

Operation = Callable[..., AloneContext]
Validation = Callable[..., ValidationResult]

CONFIG = VersionConfig(heldout_fraction=0.3, num_buckets=4)


class Plain:
    """A fold that keeps nothing."""

    def initial(self) -> None:
        return None

    def apply(self, state: None, record: Record) -> None:
        return None

    def dump(self, state: None) -> Any:
        return None

    def load(self, data: Any) -> None:
        return None


def record(store: Store, log: str, data: Any) -> None:
    Log(store, log, Plain()).append(lambda _: Draft("note", {"data": data}))


def stored(blobs: Blobs) -> set[str]:
    return {info.key.rpartition("/")[2] for info in blobs.store.list("blobs")}


@pytest.fixture
def impatient(tmp_path: Path) -> Blobs:
    """Blobs that are old as soon as they are written."""
    return Blobs(open_store(str(tmp_path / "storage")), grace_s=-1.0)


def test_what_nobody_names_is_deleted(impatient: Blobs) -> None:
    orphan, named = impatient.put(b"orphan"), impatient.put(b"named")
    record(impatient.store, "datasets/corpus", {"sha256": named.sha256})
    found = collect(impatient, dry_run=False)
    assert found.deleted == (orphan.sha256,)
    assert stored(impatient) == {named.sha256}


def test_a_dry_run_deletes_nothing(impatient: Blobs) -> None:
    orphan = impatient.put(b"orphan")
    assert collect(impatient, dry_run=True).deleted == (orphan.sha256,)
    assert stored(impatient) == {orphan.sha256}


def test_what_is_young_stays(impatient: Blobs) -> None:
    patient = Blobs(impatient.store)
    young = patient.put(b"of a step that is running")
    assert collect(patient, dry_run=False).num_young == 1
    assert stored(patient) == {young.sha256}


LOGS = (
    "runs/2026",
    "datasets/other",
    "frontier/pydoc",
    "releases/tiny",
    "signals/tiny",
    "outcomes/tiny/host-1",
    "outbox",
)


@pytest.mark.parametrize("log", LOGS)
def test_blobs_of_every_log_stay(impatient: Blobs, log: str) -> None:
    named = impatient.put(b"named")
    record(impatient.store, log, {"model": {"sha256": named.sha256, "size": named.size}})
    assert collect(impatient, dry_run=False).deleted == ()
    assert stored(impatient) == {named.sha256}


def test_blobs_that_are_named_by_blobs_stay(impatient: Blobs, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    tree = impatient.put_tree(folder)
    within = impatient.put(b"within a long value")
    long_value = encode([{"ref": within.sha256, "padding": "x" * 100}] * 300, impatient)
    record(impatient.store, "runs/a", [{"tree": tree.sha256}, long_value])
    assert collect(impatient, dry_run=False).deleted == ()
    assert len(stored(impatient)) == 4


def test_blobs_of_a_step_that_is_run_alone_stay(impatient: Blobs) -> None:
    storage = impatient.store.uri
    with AloneContext(storage, step="tune", inputs=1) as ctx:
        ref = impatient.put(b"a trial")
        ctx.checkpoint("trial-1", {"model": ref})
    assert collect(impatient, dry_run=False).deleted == ()


def test_nothing_is_deleted_when_a_log_cannot_be_read(impatient: Blobs) -> None:
    orphan = impatient.put(b"orphan")
    record(impatient.store, "runs/a", {})
    impatient.store.put("runs/a/00000000000000000000.json", b'{"torn')
    with pytest.raises(CorruptRecord):
        collect(impatient, dry_run=False)
    assert stored(impatient) == {orphan.sha256}


class Asked(MemoryStore):
    """Keeps the keys that it was asked about."""

    def head(self, key: str) -> ObjectInfo | None:
        asked_about.append(key)
        return super().head(key)


asked_about: list[str] = []


def test_collecting_reads_no_tables_and_asks_for_no_digests_of_pages() -> None:
    store = Asked()
    blobs = Blobs(store, grace_s=-1.0)
    table = blobs.put(b"PAR1", MEDIA_TYPE)
    manifest = {"files": [{"bucket": 0, "sha256": table.sha256}], "lineage": {"documents": [table.sha256]}}
    log = Log(store, "datasets/corpus", Plain())
    log.append(lambda _: Draft("version", manifest))
    record(store, "frontier/web", [{"text_sha256": f"{number:064x}"} for number in range(100)])
    store.objects[blobs.key(table.sha256)] = (b"never read", 0.0)
    asked_about.clear()

    assert collect(blobs, dry_run=False).deleted == ()
    assert blobs.key(f"{7:064x}") not in asked_about
    assert blobs.key(table.sha256) not in asked_about


@pytest.mark.ray
@pytest.mark.parametrize("storage", ["file"], indirect=True)
def test_collecting_spares_every_version_and_what_a_dead_step_left_goes(
    ray_head: str, operation: Operation, make_validation: Validation
) -> None:
    versions: list[tuple[DatasetVersion, int]] = []
    for number in range(3):
        ctx = operation(f"op-{number}")
        documents = {f"page-{page}": f"{page} of {number}" for page in range(number, number + 4)}
        version = run(CONFIG, make_validation(ctx.blobs, documents, [f"page-{number - 1}"]), ctx)
        versions.append((version, version.num_train + version.num_heldout))
    blobs = Blobs(ctx.store, grace_s=-1.0)
    left = blobs.put(b"left by a dead step")
    assert left.sha256 in collect(blobs, dry_run=False).deleted
    for version, num_rows in versions:
        assert read_table(ctx.blobs, version, split=None).num_rows == num_rows


@pytest.mark.ray
@pytest.mark.parametrize("storage", ["file"], indirect=True)
def test_a_difference_names_the_documents_and_reads_only_files_that_differ(
    ray_head: str, operation: Operation, make_validation: Validation
) -> None:
    ctx = operation("a")
    run(CONFIG, make_validation(ctx.blobs, {f"page-{page}": "old" for page in range(40)}), ctx)
    run(CONFIG, make_validation(ctx.blobs, {"page-3": "new", "more": "new"}, ["page-7"]), operation("b"))
    log = open_dataset(ctx.store, "corpus")
    before, after = log.refresh().versions

    class Counting(Blobs):
        num_read = 0

        def get(self, ref: BlobRef) -> bytes:
            Counting.num_read += 1
            return super().get(ref)

    found = diff(before, after, Counting(ctx.store))
    assert found.added == ("https://example.org/more",)
    assert found.changed == ("https://example.org/page-3",)
    assert found.removed == ("https://example.org/page-7",)
    assert Counting.num_read == 2 * (4 - found.num_shared_files)
    backwards = diff(after, before, ctx.blobs)
    assert (backwards.added, backwards.removed) == (found.removed, found.added)
    assert diff(after, after, ctx.blobs).num_shared_files == 4

    tag(log, "corpus", "1", "gold")
    tag(log, "corpus", "latest", "gold")
    length = log.length
    tag(log, "corpus", "2", "gold")
    assert log.length == length
    assert log.state.find("corpus", "gold").version == 2
