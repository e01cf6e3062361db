from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.workflows.log.faulty_s3 import Fault, FaultyS3
from workflows.log import (
    AlreadyExists,
    InvalidKey,
    InvalidUri,
    LyingStore,
    NotFound,
    Store,
    StoreRejected,
    check_key,
    open_store,
    probe_store,
)


def test_a_created_object_is_there(store: Store) -> None:
    store.create("a/b.json", b"one")

    assert store.get("a/b.json") == b"one"


def test_a_second_create_is_refused_and_changes_nothing(store: Store) -> None:
    store.create("a/b.json", b"one")

    with pytest.raises(AlreadyExists) as caught:
        store.create("a/b.json", b"two")

    assert caught.value.key == "a/b.json"
    assert store.get("a/b.json") == b"one"


def test_of_racing_creates_one_wins(store: Store) -> None:
    barrier = threading.Barrier(8)
    won: list[int] = []

    def race(number: int) -> None:
        barrier.wait()
        try:
            store.create("slot", str(number).encode())
        except AlreadyExists:
            return
        won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [str(number).encode() for number in won] == [store.get("slot")]


def test_put_replaces(store: Store) -> None:
    store.put("live/1", b"one")
    store.put("live/1", memoryview(b"another"))

    assert store.get("live/1") == b"another"


def test_an_absent_object_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="a/nothing"):
        store.get("a/nothing")
    with pytest.raises(NotFound, match="a/nothing"):
        store.download("a/nothing", tmp_path / "copy")
    assert store.head("a/nothing") is None
    assert not (tmp_path / "copy").exists()


def test_a_folder_is_no_object(store: Store) -> None:
    store.put("a/b", b"one")

    assert store.head("a") is None
    with pytest.raises(NotFound):
        store.get("a")


def test_head_tells_size_and_time(store: Store) -> None:
    before = store.now()
    store.put("a", b"12345")

    info = store.head("a")

    assert info is not None
    assert (info.key, info.size) == ("a", 5)
    assert abs(info.modified_at - before) < 3


def test_delete_removes_and_may_be_repeated(store: Store) -> None:
    store.put("a/b", b"one")

    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")

    assert store.head("a/b") is None


def test_list_is_recursive_and_in_key_order(store: Store) -> None:
    keys = ["runs/a-b/1", "runs/a/1", "runs/a/2", "runs/a/x/1", "runs/a.b", "runs/b", "runs-2/1", "zebra"]
    for key in keys:
        store.put(key, b"")
    store.now()

    assert [info.key for info in store.list("")] == sorted(keys)
    assert [info.key for info in store.list("runs")] == sorted(key for key in keys if key.startswith("runs/"))
    assert [info.key for info in store.list("runs/a")] == ["runs/a/1", "runs/a/2", "runs/a/x/1"]
    assert list(store.list("nothing/here")) == []


@pytest.mark.parametrize(
    "after", ["runs/a-b/1", "runs/a/1", "runs/a/2", "runs/a/x", "runs/a0", "runs/a.b", "runs/b", "a", "z"]
)
def test_list_after_a_key_gives_the_greater_ones(store: Store, after: str) -> None:
    keys = ["runs/a-b/1", "runs/a/1", "runs/a/2", "runs/a/x/1", "runs/a.b", "runs/b"]
    for key in keys:
        store.put(key, b"")

    assert [info.key for info in store.list("runs", after=after)] == sorted(key for key in keys if key > after)


def test_list_gives_all_of_many(store: Store) -> None:
    keys = [f"many/{number:04}" for number in range(1_010)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))

    assert [info.key for info in store.list("many")] == keys


def test_upload_and_download_stream_files(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 150_000)

    store.upload("big", source)
    store.download("big", tmp_path / "deep" / "copy")

    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_a_missing_local_file_is_no_missing_object(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.upload("a", tmp_path / "nothing")


def test_a_download_that_cannot_be_written_here_is_no_fault_of_the_store(store: Store, tmp_path: Path) -> None:
    store.put("a", b"one")
    (tmp_path / "folder").mkdir()

    with pytest.raises(IsADirectoryError):
        store.download("a", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_now_follows_the_clock(store: Store) -> None:
    first = store.now()

    assert abs(first - time.time()) < 3
    assert store.now() >= first


def test_a_store_pickles_by_its_uri(store: Store) -> None:
    store.put("a", b"one")

    other: Store = pickle.loads(pickle.dumps(store))

    assert other.uri == store.uri
    assert other.get("a") == b"one"


def test_an_honest_store_passes_the_probe_and_is_left_empty(storage: str) -> None:
    store = open_store(storage, probe=True)

    assert list(store.list("")) == []


def test_a_store_that_ignores_the_condition_is_refused_by_name(faulty_s3: FaultyS3, faulty_storage: str) -> None:
    faulty_s3.faults.append(Fault("PUT", "/probe/", "lie", times=2))

    with pytest.raises(LyingStore, match=faulty_s3.endpoint):
        open_store(faulty_storage, probe=True)


def test_a_store_that_loses_an_answer_is_trusted(faulty_s3: FaultyS3, faulty_storage: str) -> None:
    faulty_s3.faults.append(Fault("PUT", "/probe/", "apply-500"))

    probe_store(open_store(faulty_storage))

    assert faulty_s3.faults[0].hits == 1


def test_a_missing_bucket_is_rejected_by_name(minio: str) -> None:
    store = open_store(f"s3://no-such-bucket?endpoint_override={minio}")

    with pytest.raises(StoreRejected, match="no such bucket"):
        store.get("a")
    with pytest.raises(StoreRejected, match="no such bucket"):
        store.create("a", b"")
    with pytest.raises(StoreRejected, match="no such bucket"):
        list(store.list(""))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "a/.hidden",
        ".clock",
        "a\\b",
        "a b",
        "a\n",
        "-a",
        "ä",
        "x" * 201,
        "a/" * 450 + "a",
    ],
)
def test_unsafe_keys_are_refused(store: Store, key: str) -> None:
    with pytest.raises(InvalidKey):
        store.put(key, b"")
    with pytest.raises(InvalidKey):
        store.create(key, b"")


def test_safe_keys_are_taken_as_they_are(store: Store) -> None:
    key = "outcomes/model-1.2/host.name:42:ab_c=@d+e,f/00001.json"
    assert check_key(key) == key

    store.put(key, b"one")

    assert [info.key for info in store.list("outcomes")] == [key]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ftp://a/b", "begins with"),
        ("s3://", "bucket is missing"),
        ("s3://a?endpoint=http://b", "unknown options"),
        ("s3://a?timeout_s=soon", "number of seconds"),
        ("file://host/a", "file:///absolute"),
        ("file:///a?b=c", "no options"),
    ],
)
def test_a_uri_that_cannot_be_understood_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(InvalidUri, match=reason):
        open_store(uri)


def test_a_plain_path_is_a_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "a folder"))
    store.put("a", b"one")

    assert store.uri == f"file://{tmp_path}/a%20folder"
    assert open_store(store.uri).get("a") == b"one"
