"""The folders of a storage, and the logs in them, on every kind of storage."""

from __future__ import annotations

from workflows.log import list_logs, open_store
from workflows.log.record import record_key


def test_folders_are_listed_without_what_lies_below(storage: str) -> None:
    store = open_store(storage)
    for key in ("runs/a/steps/one/1/x", "runs/a-b/y", "runs/file", f"runs/c/{0:020}.json", "other/z"):
        store.put(key, b"x")
    assert store.folders("runs") == ["a", "a-b", "c"]
    assert store.folders("") == ["other", "runs"]
    assert store.folders("nothing") == []


def test_many_logs_are_found_and_nothing_inside_of_them(storage: str) -> None:
    store = open_store(storage)
    names = [f"runs/run-{number:02}" for number in range(25)]
    for name in names:
        store.put(record_key(name, 0), b"{}")
        store.put(f"{name}/steps/a/1/{0:020}.json", b"{}")
    store.put("runs/empty/live/00000001", b"{}")
    store.put(record_key("outcomes/demo/w-1", 0), b"{}")
    assert list_logs(store, "runs") == names
    assert list_logs(store, "runs/") == names
    assert list_logs(store, "outcomes/demo") == ["outcomes/demo/w-1"]
    assert list_logs(store, "runs/run-07") == ["runs/run-07"]
    assert list_logs(store, "") == ["outcomes/demo/w-1", *names]
