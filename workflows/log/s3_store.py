"""Objects in a bucket of S3, MinIO or anything that honours `If-None-Match: *` on PUT.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import builtins
import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions
from obstore.store import S3Store as Bucket

from workflows.log.errors import (
    AlreadyExists,
    InvalidUri,
    NotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreRejected,
    StoreUnavailable,
)
from workflows.log.failpoints import failpoint
from workflows.log.served_credentials import ServedCredentials
from workflows.log.store import Buffer, CredentialProvider, ObjectInfo, Store, check_key, open_store

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig  # Not there at run time.

CLOCK = ".clock"
CLOCK_VALID_S = 60.0
"""How long a measured difference to the store's clock is believed; the two drift by microseconds in this time."""

PART_BYTES = 16 * 2**20
"""Bigger objects go up in parts of this size, several at a time."""

_OPTIONS = ("endpoint_override", "region", "scheme", "timeout_s")
_LOST_UPLOAD = "NoSuchUpload"
_NO_CREDENTIALS = re.compile(r"StoreDenied|ExpiredToken|InvalidTokenId")
_STATUS = re.compile(r"status code: (\d{3})")


class S3Store:
    """A bucket, or the keys of a bucket under a prefix. The bucket must exist."""

    def __init__(
        self,
        uri: str,
        *,
        bucket: str,
        prefix: str,
        options: Mapping[str, str],
        credentials: CredentialProvider | None = None,
    ) -> None:
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown or not bucket:
            raise InvalidUri(
                uri, f"unknown options {unknown}, there are {_OPTIONS}" if unknown else "a bucket is missing"
            )
        self.uri = uri
        self._given_credentials = credentials
        self._bucket = _connect(
            bucket, prefix, options, uri, credentials or ServedCredentials.from_environment(os.environ)
        )
        self._clock_lock = threading.Lock()
        self._clock: tuple[float, float] | None = None

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[str, CredentialProvider | None]]:
        return _reopen, (self.uri, self._given_credentials)

    def create(self, key: str, data: Buffer) -> None:
        check_key(key)
        with self._translated(key):
            failpoint("s3.create.before-request")
            obstore.put(self._bucket, key, _flat(data), mode="create", use_multipart=False)
            failpoint("s3.create.after-request")

    def put(self, key: str, data: Buffer) -> None:
        self._replace(key, _flat(data))

    def upload(self, key: str, path: Path) -> None:
        path.stat()  # A missing local file is not a missing object.
        self._replace(key, path)

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._translated(key):
            return bytes(obstore.get(self._bucket, key).bytes())

    def head(self, key: str) -> ObjectInfo | None:
        check_key(key)
        try:
            with self._translated(key):
                found = obstore.head(self._bucket, key)
        except NotFound:
            return None
        return ObjectInfo(key, found["size"], found["last_modified"].timestamp())

    def list(self, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        prefix = prefix.strip("/")
        if prefix:
            check_key(prefix)
        with self._translated(prefix):
            for page in obstore.list(self._bucket, prefix=prefix or None, offset=after or None):
                for found in page:
                    if "/." not in f"/{found['path']}":
                        yield ObjectInfo(found["path"], found["size"], found["last_modified"].timestamp())

    def folders(self, prefix: str) -> builtins.list[str]:
        if prefix:
            check_key(prefix)
        with self._translated(prefix):
            found = obstore.list_with_delimiter(self._bucket, prefix or None)["common_prefixes"]
        return sorted(name for path in found if not (name := path.strip("/").rpartition("/")[2]).startswith("."))

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            with self._translated(key):
                obstore.delete(self._bucket, key)
        except NotFound:
            pass

    def download(self, key: str, path: Path) -> None:
        check_key(key)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with self._translated(key):
            chunks = iter(obstore.get(self._bucket, key).stream(min_chunk_size=2**20))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as target:
                while True:
                    with self._translated(key):
                        chunk = next(chunks, None)
                    if chunk is None:
                        break
                    target.write(chunk)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def now(self) -> float:
        # The difference to the store's clock is measured by a write and kept for a while: CLOCK_BOOTTIME goes on while
        # the machine sleeps, and nobody sets it. Answers round down to whole seconds, so the truth lies within half a
        # second and a round trip of this.
        with self._clock_lock:
            here = time.clock_gettime(time.CLOCK_BOOTTIME)
            if self._clock is None or here - self._clock[0] > CLOCK_VALID_S:
                with self._translated(CLOCK):
                    obstore.put(self._bucket, CLOCK, b"")
                    written = time.clock_gettime(time.CLOCK_BOOTTIME)
                    there = obstore.head(self._bucket, CLOCK)["last_modified"].timestamp()
                self._clock = (written, there + 0.5 - (here + written) / 2)
                here = written
            return here + self._clock[1]

    def _replace(self, key: str, data: bytes | memoryview | Path) -> None:
        check_key(key)
        with self._translated(key):
            failpoint("s3.put.before-request")
            try:
                obstore.put(self._bucket, key, data, chunk_size=PART_BYTES)
            except FileNotFoundError as error:
                # The client asked twice to complete an upload in parts, for the answer to the first was lost.
                if _LOST_UPLOAD not in str(error):
                    raise
                obstore.put(self._bucket, key, data, chunk_size=PART_BYTES)
            failpoint("s3.put.after-request")

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise self._translate(error, key) from error

    def _translate(self, error: Exception, key: str) -> StoreError:  # noqa: PLR0911 - one an error
        text = str(error)
        reason = text.partition("\n\nDebug source")[0]
        status = int(match[1]) if (match := _STATUS.search(text)) else None
        if "NoSuchBucket" in text:
            return StoreRejected(self.uri, key, f"there is no such bucket: {reason}")
        if isinstance(error, exceptions.AlreadyExistsError):
            return AlreadyExists(self.uri, key)
        if _LOST_UPLOAD in text:
            return StoreUnavailable(self.uri, key, reason)
        if isinstance(error, FileNotFoundError):
            return NotFound(self.uri, key)
        # A listing that is refused comes as an unnamed error; so do credentials that were refused to us.
        is_refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
        if is_refused or status in (401, 403) or _NO_CREDENTIALS.search(text):
            return StoreDenied(self.uri, key, reason)
        if status == 507 or "StorageFull" in text or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
            return StoreFull(self.uri, key, reason)
        if status is not None and 400 <= status < 500 and status not in (408, 409, 429):
            return StoreRejected(self.uri, key, reason)
        if isinstance(error, exceptions.GenericError | exceptions.PreconditionError | exceptions.JoinError | OSError):
            return StoreUnavailable(self.uri, key, reason)
        return StoreRejected(self.uri, key, reason)


def _connect(
    bucket: str, prefix: str, options: Mapping[str, str], uri: str, credentials: CredentialProvider | None
) -> Bucket:
    endpoint = options.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{options.get('scheme', 'https')}://{endpoint}"
    try:
        timeout = timedelta(seconds=float(options.get("timeout_s", "30")))
    except ValueError:
        raise InvalidUri(uri, f"timeout_s is a number of seconds, got {options['timeout_s']!r}") from None
    # Few: a log asks again by itself, with the slot read in between.
    retries: RetryConfig = {
        "max_retries": 3,
        "retry_timeout": 2 * timeout,
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
    }
    client: ClientConfig = {"timeout": timeout, "connect_timeout": min(timeout, timedelta(seconds=5))}
    if endpoint and endpoint.startswith("http://"):
        client["allow_http"] = True
    region = (
        options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    )
    given: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    if credentials is not None:
        given["credential_provider"] = credentials
    return Bucket(bucket, prefix=prefix or None, region=region, client_options=client, retry_config=retries, **given)


def _reopen(uri: str, credentials: CredentialProvider | None) -> Store:
    return open_store(uri, credentials=credentials)


def _flat(data: Buffer) -> bytes | memoryview:
    return data if isinstance(data, bytes) else memoryview(data).cast("B")
