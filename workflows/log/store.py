"""Where bytes are kept: one small protocol, two storages behind it (a folder, an S3 bucket).

A store is named by a URI and travels to workers as that URI:

    file:///var/lib/everloop                                      a folder; a plain path means the same
    s3://bucket/prefix                                            AWS
    s3://bucket/prefix?endpoint_override=http://127.0.0.1:9000    MinIO and its like

Options of S3: `endpoint_override`, `scheme` (of an endpoint without one), `region`, `timeout_s` (of one request). Its
credentials come from where AWS clients look for them, first AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then
AWS_CONTAINER_CREDENTIALS_FULL_URI; or from a provider that is passed in.
"""

from __future__ import annotations

import builtins
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from workflows.log.errors import AlreadyExists, InvalidKey, InvalidUri, LyingStore

if TYPE_CHECKING:
    from obstore.store import S3Credential  # Not there at run time.

Buffer: TypeAlias = bytes | bytearray | memoryview
CredentialProvider: TypeAlias = "Callable[[], S3Credential]"

MAX_KEY_LENGTH = 900
"""S3 allows 1,024 bytes; the rest is left to the prefix in the URI."""

MAX_NAME_LENGTH = 200
"""File systems allow 255 bytes in a name."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@=+,-]*")
_KEY = re.compile(rf"{_NAME.pattern}(?:/{_NAME.pattern})*")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows about an object.

    Attributes:
        key: Its key, relative to the store's root.
        size: Bytes.
        modified_at: Unix seconds of its last write by the store's clock; S3 may round down to whole seconds.
    """

    key: str
    size: int
    modified_at: float


class Store(Protocol):
    """A storage with atomic, durable objects. Safe to use from threads; pickles by its URI.

    Every method may raise `StoreUnavailable` (no clear answer, may be asked again), `StoreDenied`, `StoreRejected` and
    `InvalidKey`; those that write, `StoreFull`.

    Attributes:
        uri: Names this storage on every machine that can reach it.
    """

    uri: str

    def create(self, key: str, data: Buffer) -> None:
        """Writes a new object; it is complete and durable when this returns, and absent or complete at any time before.

        Raises:
            AlreadyExists: The key is taken, perhaps by this very call, if an answer was lost and asked for again.
        """

    def put(self, key: str, data: Buffer) -> None:
        """Creates or replaces an object, atomically and durably."""

    def get(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            NotFound: There is none.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """What is known about an object, or None if there is none."""

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Objects in a folder and below, in the order of their keys.

        Args:
            prefix: The folder, in whole path segments; empty for all.
            after: Only keys greater than this one.
        """

    def folders(self, prefix: str) -> builtins.list[str]:
        """Names of the folders directly in a folder, in order. Costs one listing, whatever lies below them."""

    def delete(self, key: str) -> None:
        """Removes an object; no error if there is none."""

    def upload(self, key: str, path: Path) -> None:
        """Creates or replaces an object with the content of a file, streamed."""

    def download(self, key: str, path: Path) -> None:
        """Streams an object into a file, which appears complete or not at all.

        Raises:
            NotFound: There is no such object.
        """

    def now(self) -> float:
        """Unix seconds by the clock that `modified_at` is told by: the only clock that machines share."""


def open_store(uri: str, *, probe: bool = False, credentials: CredentialProvider | None = None) -> Store:
    """Opens the storage that a URI or a plain path names.

    Args:
        uri: See the module's docstring.
        probe: Also check that the storage can hold a log. It costs three writes; do it once, where a run starts.
        credentials: Gives credentials for a bucket, and is asked again before they end. A store that is to be pickled
            needs one that can be.

    Raises:
        InvalidUri: Unknown scheme, option or shape.
        LyingStore: A second conditional create of one key was accepted.
        NoHardLinks: A folder without hard links.
    """
    store = _open(uri, credentials)
    if probe:
        probe_store(store)
    return store


def probe_store(store: Store) -> None:
    """Checks that of two conditional creates of one key the second is refused and changes nothing.

    Raises:
        LyingStore: It is not.
        NoHardLinks: A folder without hard links.
    """
    key = f"probe/{secrets.token_hex(8)}"
    with suppress(AlreadyExists):  # The echo of this very write, if an answer was lost and the client asked again.
        store.create(key, b"first")
    try:
        store.create(key, b"second")
    except AlreadyExists:
        pass
    else:
        raise LyingStore(store.uri)
    finally:
        content = store.get(key)
        store.delete(key)
    if content != b"first":
        raise LyingStore(store.uri)


def check_key(key: str) -> str:
    """Returns the key if every storage takes it as it is.

    Raises:
        InvalidKey: It is empty, too long, absolute, or has a segment that is hidden, `..`, or of unsafe characters.
    """
    if not _KEY.fullmatch(key):
        raise InvalidKey(
            key, "segments of letters, digits and _.:@=+,- are joined by /, and begin with a letter, digit or _"
        )
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidKey(key, f"longer than {MAX_KEY_LENGTH}")
    if len(key) > MAX_NAME_LENGTH and max(map(len, key.split("/"))) > MAX_NAME_LENGTH:
        raise InvalidKey(key, f"a segment is longer than {MAX_NAME_LENGTH}")
    return key


def _open(uri: str, credentials: CredentialProvider | None) -> Store:
    from workflows.log.file_store import FileStore

    scheme, separator, _ = uri.partition("://")
    if not separator:
        return FileStore(Path(uri).expanduser().absolute())
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidUri(uri, "a folder is file:///absolute/path")
        if options:
            raise InvalidUri(uri, f"a folder has no options, got {sorted(options)}")
        return FileStore(Path(unquote(parts.path)))
    if scheme == "s3":
        from workflows.log.s3_store import S3Store

        return S3Store(
            uri, bucket=parts.netloc, prefix=unquote(parts.path).strip("/"), options=options, credentials=credentials
        )
    raise InvalidUri(uri, "it begins with file:// or s3://")
