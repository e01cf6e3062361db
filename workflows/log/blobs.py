"""Big values, named by the SHA-256 of their bytes and written before the record that names them.

A blob is immutable and shared by all who have the same bytes. `gc` deletes what no log names any more once it is older
than a grace; so a writer that finds its blob there already renews it when half the grace is over.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workflows.log.errors import CorruptBlob
from workflows.log.failpoints import failpoint
from workflows.log.record import canonical_json
from workflows.log.store import Buffer, Store, check_key

GRACE_S = 24 * 3600.0
"""Longest time between the write of a blob and the record that names it."""

TREE_MEDIA_TYPE = "application/vnd.everloop.tree+json"
NUM_COPIES = 8
"""Files of a tree that are copied at the same time."""


_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Names a blob.

    Attributes:
        sha256: 64 hex digits.
        size: Bytes.
        media_type: What the bytes are, for those who look at them.
    """

    sha256: str
    size: int
    media_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class TreeRef:
    """Names a folder of files: its manifest is a blob, each file is one.

    Attributes:
        sha256: Of the manifest.
        size: Bytes of all files.
        num_files: Files in it, at any depth.
    """

    sha256: str
    size: int
    num_files: int


class Blobs:
    """The blobs of a storage. Safe to use from threads; pickles."""

    def __init__(self, store: Store, *, prefix: str = "blobs", grace_s: float = GRACE_S) -> None:
        self.store = store
        self.prefix = check_key(prefix)
        self.grace_s = grace_s

    def key(self, sha256: str) -> str:
        """Where the bytes with this digest are kept.

        Raises:
            CorruptBlob: It is no digest, so it may lead anywhere.
        """
        if not _DIGEST.fullmatch(sha256):
            raise CorruptBlob(sha256, "the name is no SHA-256")
        return f"{self.prefix}/{sha256[:2]}/{sha256}"

    def put(self, data: Buffer, media_type: str = "application/octet-stream") -> BlobRef:
        """Keeps bytes durably. Costs no write if they are there already and young."""
        view = memoryview(data).cast("B")
        ref = BlobRef(hashlib.sha256(view).hexdigest(), len(view), media_type)
        if not self._is_kept(ref):
            failpoint("blobs.put.before-write")
            self.store.put(self.key(ref.sha256), view)
            failpoint("blobs.put.after-write")
        return ref

    def put_file(self, path: Path, media_type: str = "application/octet-stream") -> BlobRef:
        """Keeps the content of a file durably, streamed; the file must not change meanwhile."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            ref = BlobRef(sha256, os.fstat(file.fileno()).st_size, media_type)
        if not self._is_kept(ref):
            failpoint("blobs.put-file.before-write")
            self.store.upload(self.key(ref.sha256), path)
            failpoint("blobs.put-file.after-write")
        return ref

    def put_tree(self, folder: Path) -> TreeRef:
        """Keeps all files below a folder; the manifest is written last, so that a tree that can be named is complete.

        Raises:
            ValueError: A symbolic link, or anything else that is no plain file.
        """
        paths = sorted(_files(folder))
        with ThreadPoolExecutor(NUM_COPIES, thread_name_prefix="blobs") as pool:
            refs = list(pool.map(self.put_file, paths))
        manifest = {path.relative_to(folder).as_posix(): ref for path, ref in zip(paths, refs, strict=True)}
        rows = {name: {"sha256": ref.sha256, "size": ref.size} for name, ref in manifest.items()}
        written = self.put(canonical_json(rows), TREE_MEDIA_TYPE)
        return TreeRef(written.sha256, sum(ref.size for ref in refs), len(refs))

    def get(self, ref: BlobRef) -> bytes:
        """The bytes of a blob, checked.

        Raises:
            CorruptBlob: They do not have the digest that names them.
            NotFound: There is no such blob.
        """
        return self._checked(ref.sha256)

    def fetch(self, ref: BlobRef, path: Path) -> Path:
        """Writes a blob to a local file, checked. A file that has the content already is left alone.

        Raises:
            CorruptBlob: The bytes do not have the digest that names them; no file is left.
            NotFound: There is no such blob.
        """
        if path.is_file() and path.stat().st_size == ref.size and _file_digest(path) == ref.sha256:
            return path
        self.store.download(self.key(ref.sha256), path)
        found = _file_digest(path)
        if found != ref.sha256:
            path.unlink()
            raise CorruptBlob(ref.sha256, f"its bytes have the digest {found}")
        return path

    def fetch_tree(self, ref: TreeRef, folder: Path) -> Path:
        """Writes the files of a tree below a local folder, checked.

        Raises:
            CorruptBlob: The manifest or a file is not what its name says, or a path leads out of the folder.
            NotFound: A part is gone.
        """
        manifest = self.tree(ref)
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(NUM_COPIES, thread_name_prefix="blobs") as pool:
            for _ in pool.map(lambda row: self.fetch(row[1], folder / row[0]), manifest.items()):
                pass
        return folder

    def tree(self, ref: TreeRef) -> dict[str, BlobRef]:
        """The files of a tree by relative path.

        Raises:
            CorruptBlob: The manifest is not what its name says, or names a path that leads out of the folder.
            NotFound: There is no such tree.
        """
        try:
            rows = json.loads(self._checked(ref.sha256))
            manifest = {str(name): BlobRef(str(row["sha256"]), int(row["size"])) for name, row in rows.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptBlob(ref.sha256, f"it is no manifest of a tree: {error!r}") from error
        _check_paths(ref.sha256, manifest)
        return manifest

    def keep(self, ref: BlobRef | TreeRef) -> None:
        """Renews a blob, or a tree and its files, for a record that will name it without putting it again.

        Raises:
            NotFound: It is gone.
        """
        digests = [ref.sha256]
        if isinstance(ref, TreeRef):
            digests += [file.sha256 for file in self.tree(ref).values()]
        for sha256 in digests:
            info = self.store.head(self.key(sha256))
            if info is None or self._is_old(info.modified_at):
                self.store.put(self.key(sha256), self._checked(sha256))

    def _is_kept(self, ref: BlobRef) -> bool:
        info = self.store.head(self.key(ref.sha256))
        return info is not None and info.size == ref.size and not self._is_old(info.modified_at)

    def _is_old(self, modified_at: float) -> bool:
        return self.store.now() - modified_at > self.grace_s / 2

    def _checked(self, sha256: str) -> bytes:
        data = self.store.get(self.key(sha256))
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CorruptBlob(sha256, f"its {len(data):,} bytes have the digest {found}")
        return data


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: a tree holds plain files only")
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_paths(sha256: str, manifest: Mapping[str, BlobRef]) -> None:
    for name in manifest:
        path = PurePosixPath(name)
        if (
            not path.parts
            or path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or "\0" in name
            or str(path) != name
        ):
            raise CorruptBlob(sha256, f"the path {name!r} leads out of the tree")
