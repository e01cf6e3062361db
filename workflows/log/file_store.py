"""Objects as files in a folder, on a local disk or a shared file system with hard links.

A new object is written to a temporary file, flushed to the disk, and given its name by link(2), which fails if the name
is taken: the one operation of POSIX that is at once atomic, exclusive and complete, on NFS too (see open(2), O_EXCL).
Then the folder is flushed.
"""

from __future__ import annotations

import builtins
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from workflows.log.errors import (
    AlreadyExists,
    NoHardLinks,
    NotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreRejected,
    StoreUnavailable,
)
from workflows.log.failpoints import failpoint
from workflows.log.store import Buffer, ObjectInfo, Store, check_key, open_store

TEMPORARY = ".tmp"
CLOCK = ".clock"
ABANDONED_AFTER_S = 24 * 3600.0
"""Temporary files older than this belong to writers that died."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_UNCLEAR = {
    errno.EIO,
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENFILE,
    errno.EMFILE,
}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}


class FileStore:
    """A folder. It is made by the first write."""

    def __init__(self, root: Path) -> None:
        self.uri = f"file://{quote(str(root))}"
        self._root = str(root)
        self._temporary = f"{root}/{TEMPORARY}"
        self._is_swept = False

    def __reduce__(self) -> tuple[Callable[[str], Store], tuple[str]]:
        return open_store, (self.uri,)

    def create(self, key: str, data: Buffer) -> None:
        path = self._path(key)
        with self._translated(key), self._written(lambda file: _write(file, data)) as temporary:
            try:
                self._link(temporary, path)
            except FileExistsError:
                # Whoever took the name may not have flushed the folder yet, and the caller builds on what it reads.
                _flush_folder(path)
                raise AlreadyExists(self.uri, key) from None
            failpoint("file.create.before-flush")
            _flush_folder(path)

    def put(self, key: str, data: Buffer) -> None:
        self._replace(key, lambda file: _write(file, data))

    def upload(self, key: str, path: Path) -> None:
        with path.open("rb") as source:
            self._replace(key, lambda file: _copy(source, file))

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with self._translated(key), open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a third of the time of Path
            return file.readall()

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._translated(key):
            try:
                status = os.stat(path)  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(key, status.st_size, status.st_mtime)

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        prefix = prefix.strip("/")
        folder = self._path(prefix) if prefix else self._root
        with self._translated(prefix):
            yield from _walk(folder, f"{prefix}/" if prefix else "", after)

    def folders(self, prefix: str) -> builtins.list[str]:
        path = self._path(prefix) if prefix else self._root
        with self._translated(prefix):
            try:
                with os.scandir(path) as entries:
                    return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._translated(key), suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)  # noqa: PTH108
            _flush_folder(path)

    def download(self, key: str, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with self._translated(key):
            source = open(self._path(key), "rb")  # noqa: PTH123, SIM115 - what fails below is not the store
        with source:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as target:
                    _copy(source, target)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def now(self) -> float:
        # The file system's own clock tells the mtimes, and on a shared folder it is the server's, not this machine's.
        # A touch and a stat cost 10 us.
        path = f"{self._root}/{CLOCK}"
        with self._translated(CLOCK):
            try:
                os.utime(path)
            except FileNotFoundError:
                _make_folder(self._root)
                with open(path, "ab"):  # noqa: PTH123
                    os.utime(path)
            return os.stat(path).st_mtime  # noqa: PTH116

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _replace(self, key: str, write: Callable[[BinaryIO], None]) -> None:
        path = self._path(key)
        with self._translated(key), self._written(write) as temporary:
            try:
                os.replace(temporary, path)  # noqa: PTH105
            except FileNotFoundError:
                _make_folder(os.path.dirname(path))  # noqa: PTH120
                os.replace(temporary, path)  # noqa: PTH105
            failpoint("file.put.before-flush")
            _flush_folder(path)

    @contextmanager
    def _written(self, write: Callable[[BinaryIO], None]) -> Iterator[str]:
        """Yields the path of a temporary file whose content is on the disk; it is gone afterwards."""
        temporary = f"{self._temporary}/{os.getpid()}-{secrets.token_hex(8)}"
        if not self._is_swept:
            _make_folder(self._temporary)
            self._remove_abandoned()
            self._is_swept = True
        try:
            with open(temporary, "xb", buffering=0) as file:  # noqa: PTH123
                write(file)
                failpoint("file.write.before-fsync")
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108

    def _link(self, temporary: str, path: str) -> None:
        failpoint("file.create.before-link")
        try:
            try:
                os.link(temporary, path)
            except FileNotFoundError:
                _make_folder(os.path.dirname(path))  # noqa: PTH120
                os.link(temporary, path)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise NoHardLinks(self.uri) from error
            raise
        failpoint("file.create.after-link")

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translate(error, key) from error

    def _translate(self, error: OSError, key: str) -> StoreError:
        reason = str(error)
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return NotFound(self.uri, key)
        if error.errno in _FULL:
            return StoreFull(self.uri, key, reason)
        if error.errno in _DENIED:
            return StoreDenied(self.uri, key, reason)
        if error.errno in _UNCLEAR:
            return StoreUnavailable(self.uri, key, reason)
        return StoreRejected(self.uri, key, reason)

    def _remove_abandoned(self) -> None:
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.stat().st_mtime < self.now() - ABANDONED_AFTER_S:
                        os.unlink(entry.path)  # noqa: PTH108


def _write(file: BinaryIO, data: Buffer) -> None:
    rest = memoryview(data).cast("B")
    while len(rest):
        rest = rest[file.write(rest) :]


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    # The kernel copies, and shares the extents where the file system can (Btrfs, XFS).
    try:
        while os.copy_file_range(source.fileno(), target.fileno(), 2**30):
            pass
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise
        source.seek(0)
        target.seek(0)
        shutil.copyfileobj(source, target, 2**20)


def _make_folder(path: str) -> None:
    """Makes a folder and those above it; each new name is flushed, for a file in a folder that is lost is lost too."""
    if os.path.isdir(path):  # noqa: PTH112
        return
    _make_folder(os.path.dirname(path))  # noqa: PTH120
    with suppress(FileExistsError):
        os.mkdir(path)  # noqa: PTH102
    _flush_folder(path)


def _flush_folder(path: str) -> None:
    """Flushes the folder in which `path` is a name."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)  # noqa: PTH120
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _walk(folder: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """Objects below a folder in the order of their keys: `a-b/c` comes before `a/c`, as in S3."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (f"{entry.name}/" if entry.is_dir() else entry.name, entry) for entry in entries if entry.name[0] != "."
            ]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in sorted(found, key=lambda pair: pair[0]):
        key = prefix + name
        if key <= after and not after.startswith(key):
            continue
        if name.endswith("/"):
            yield from _walk(entry.path, key, after)
            continue
        if key <= after:
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        yield ObjectInfo(key, status.st_size, status.st_mtime)
