from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from workflows.log import NoHardLinks, StoreDenied, StoreFull, StoreUnavailable, open_store
from workflows.log.file_store import ABANDONED_AFTER_S, TEMPORARY


def test_opening_touches_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "storage"))

    assert list(store.list("")) == []
    assert not (tmp_path / "storage").exists()


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("a", b"one")
    store.put("b", b"one")

    assert list((tmp_path / TEMPORARY).iterdir()) == []


def test_files_of_writers_that_died_are_removed(tmp_path: Path) -> None:
    (tmp_path / TEMPORARY).mkdir()
    old, young = tmp_path / TEMPORARY / "1-old", tmp_path / TEMPORARY / "1-young"
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (0, young.stat().st_mtime - ABANDONED_AFTER_S - 60))

    open_store(str(tmp_path)).put("a", b"")

    assert (old.exists(), young.exists()) == (False, True)


def test_a_file_system_without_hard_links_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", link)

    with pytest.raises(NoHardLinks, match=str(tmp_path)):
        open_store(str(tmp_path), probe=True)


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreUnavailable), (errno.EROFS, StoreDenied)],
)
def test_errors_of_the_disk_have_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    store = open_store(str(tmp_path))
    store.put("a", b"old")

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fsync)
        with pytest.raises(error):
            store.put("a", b"new")

    assert store.get("a") == b"old"


def test_content_name_and_folders_are_flushed_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "storage"))
    store.put("warm", b"")
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path).as_posix())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.create("runs/a/0", b"one")

    assert flushed[0].startswith(f"storage/{TEMPORARY}/")
    assert flushed[1:] == ["storage", "storage/runs", "storage/runs/a"]
