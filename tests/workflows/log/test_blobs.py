from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workflows.log.counting import MemoryStore
from workflows.log import BlobRef, Blobs, CorruptBlob, NotFound, TreeRef, canonical_json
from workflows.log.record import digest


def write_tree(folder: Path) -> dict[str, bytes]:
    files = {"config.json": b"{}", "weights/a.safetensors": bytes(100_000), "weights/deep/b": b"", "same": b"{}"}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return files


def test_bytes_come_back(blobs: Blobs) -> None:
    ref = blobs.put(b"some bytes", "text/plain")

    assert ref == BlobRef(digest(b"some bytes"), 10, "text/plain")
    assert blobs.get(ref) == b"some bytes"


@pytest.mark.parametrize(
    "data", [b"", bytearray(b"abc"), memoryview(b"abcdef")[::1], memoryview(bytes(range(64))).cast("I")]
)
def test_anything_with_contiguous_bytes_can_be_put(blobs: Blobs, data: bytes) -> None:
    assert blobs.get(blobs.put(data)) == bytes(data)


def test_equal_bytes_are_kept_once() -> None:
    class CountingStore(MemoryStore):
        num_puts = 0

        def put(self, key: str, data: bytes) -> None:
            self.num_puts += 1
            super().put(key, data)

    store = CountingStore()
    blobs = Blobs(store)

    assert blobs.put(b"same") == blobs.put(b"same")
    assert store.num_puts == 1


def test_an_old_blob_is_renewed_when_it_is_put_again() -> None:
    store = MemoryStore()
    blobs = Blobs(store, grace_s=1_000)
    ref = blobs.put(b"same")
    key = blobs.key(ref.sha256)
    data, written_at = store.objects[key]
    for age_s, renewed in ((400, False), (600, True)):
        store.objects[key] = (data, written_at - age_s)
        blobs.put(b"same")
        assert (store.objects[key][1] >= written_at) is renewed


def test_an_old_blob_is_renewed_for_a_record_that_names_it_again(tmp_path: Path) -> None:
    store = MemoryStore()
    blobs = Blobs(store, grace_s=1_000)
    write_tree(tmp_path)
    tree, blob = blobs.put_tree(tmp_path), blobs.put(b"alone")
    written_at = store.now()
    store.objects = {key: (data, at - 10_000) for key, (data, at) in store.objects.items()}

    blobs.keep(tree)
    blobs.keep(blob)

    assert all(at >= written_at - 1 for _, at in store.objects.values())
    with pytest.raises(NotFound):
        blobs.keep(BlobRef("0" * 64, 1))


def test_a_torn_blob_is_healed_by_the_next_put(blobs: Blobs) -> None:
    ref = blobs.put(b"whole bytes")
    blobs.store.put(blobs.key(ref.sha256), b"whole")

    blobs.put(b"whole bytes")

    assert blobs.get(ref) == b"whole bytes"


def test_a_changed_byte_is_detected(blobs: Blobs, tmp_path: Path) -> None:
    ref = blobs.put(b"some bytes")
    blobs.store.put(blobs.key(ref.sha256), b"same bytes")

    with pytest.raises(CorruptBlob, match=ref.sha256):
        blobs.get(ref)
    with pytest.raises(CorruptBlob, match=ref.sha256):
        blobs.fetch(ref, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_missing_blob_is_not_found(blobs: Blobs, tmp_path: Path) -> None:
    ref = BlobRef("0" * 64, 5)

    with pytest.raises(NotFound):
        blobs.get(ref)
    with pytest.raises(NotFound):
        blobs.fetch(ref, tmp_path / "copy")


def test_files_are_streamed_both_ways(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))

    ref = blobs.put_file(source, "application/x-test")
    copy = blobs.fetch(ref, tmp_path / "deep" / "copy")

    assert ref == blobs.put(source.read_bytes(), "application/x-test")
    assert copy.read_bytes() == source.read_bytes()


def test_a_file_that_is_there_already_is_not_fetched_again(blobs: Blobs, tmp_path: Path) -> None:
    ref = blobs.put(b"some bytes")
    blobs.fetch(ref, tmp_path / "copy")
    blobs.store.delete(blobs.key(ref.sha256))

    blobs.fetch(ref, tmp_path / "copy")
    (tmp_path / "copy").write_bytes(b"same bytes")
    with pytest.raises(NotFound):
        blobs.fetch(ref, tmp_path / "copy")


def test_a_tree_comes_back(blobs: Blobs, tmp_path: Path) -> None:
    files = write_tree(tmp_path / "in")

    ref = blobs.put_tree(tmp_path / "in")
    out = blobs.fetch_tree(ref, tmp_path / "out")

    assert (ref.size, ref.num_files) == (100_004, 4)
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    assert {name: blobs.get(file) for name, file in blobs.tree(ref).items()} == files


def test_equal_trees_are_one(blobs: Blobs, tmp_path: Path) -> None:
    write_tree(tmp_path / "a")
    write_tree(tmp_path / "b")

    assert blobs.put_tree(tmp_path / "a") == blobs.put_tree(tmp_path / "b")


def test_a_tree_of_nothing_is_a_tree(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()

    assert list(blobs.fetch_tree(blobs.put_tree(tmp_path / "in"), tmp_path / "out").iterdir()) == []


def test_a_tree_with_a_link_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")

    with pytest.raises(ValueError, match="link"):
        blobs.put_tree(tmp_path)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\\b", "a//b", ".", "a/", "a\0b"])
def test_a_path_that_leads_out_of_the_tree_is_refused(blobs: Blobs, tmp_path: Path, name: str) -> None:
    file = blobs.put(b"evil")
    manifest = blobs.put(canonical_json({name: {"sha256": file.sha256, "size": file.size}}))

    with pytest.raises(CorruptBlob, match="leads out"):
        blobs.fetch_tree(TreeRef(manifest.sha256, 4, 1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("manifest", [b"not json", b"[1]", b'{"a": 1}', b'{"a": {"sha256": "b"}}'])
def test_a_blob_that_is_no_manifest_is_no_tree(blobs: Blobs, manifest: bytes) -> None:
    with pytest.raises(CorruptBlob, match="no manifest"):
        blobs.tree(TreeRef(blobs.put(manifest).sha256, 0, 0))


def test_a_digest_that_is_none_is_no_way_out_of_the_folder(blobs: Blobs) -> None:
    with pytest.raises(CorruptBlob, match="no SHA-256"):
        blobs.get(replace(blobs.put(b"x"), sha256="../../secret"))
