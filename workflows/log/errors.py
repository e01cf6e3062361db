"""What can go wrong below the log. Every error pickles, so that Ray carries it from worker to runner.

LogError
|- Refused                 `decide` said no to the state as it is
|  |- Fenced               the writer's claim is older than the current one
|  `- Closed               a terminal record closed the log
|- InvalidRecord           what `decide` returned cannot be stored: kind, JSON, size
|- CorruptRecord           a stored record is torn, edited or does not continue the chain
|- UnsupportedFormat       a stored record was written by a newer or a forgotten version
|- CodecError
|  |- CannotEncode         a value has no durable form
|  `- CannotDecode         a stored value does not fit the code that reads it
|- CorruptBlob             the bytes of a blob do not have the digest that names them
`- StoreError
   |- AlreadyExists        a conditional create found the key taken
   |- NotFound             no such key
   |- InvalidKey           a key that is not safe on every storage
   |- InvalidUri           a storage URI that cannot be understood
   |- LyingStore           a second conditional create of one key was let through
   |- NoHardLinks          the file system has no hard links, so no atomic create
   |- StoreFull            no space or quota left
   |- StoreDenied          credentials or permissions do not allow it
   |- StoreRejected        the store will not do it, now or later
   `- StoreUnavailable     time-out, lost connection, 5xx: the outcome is unknown; the only retryable one
"""

from __future__ import annotations

from typing import Any, Self


class LogError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)

    @classmethod
    def _restored(cls, args: tuple[Any, ...], fields: dict[str, Any]) -> Self:
        error = cls.__new__(cls)
        error.args = args
        error.__dict__.update(fields)
        return error


def _restore(cls: type[LogError], args: tuple[Any, ...], fields: dict[str, Any]) -> LogError:
    # Constructors take fields and build the message, so the default (call the class with `args`) would fail.
    return cls._restored(args, fields)


class Refused(LogError):
    """The state does not allow the record. Subclass it in the domain; raise it from `decide`."""


class Fenced(Refused):
    """Another writer holds a newer claim; this one must stop."""

    def __init__(self, log: str, epoch: int, current_epoch: int) -> None:
        super().__init__(f"log {log}: epoch {epoch} was replaced by epoch {current_epoch}; this writer must stop")
        self.log = log
        self.epoch = epoch
        self.current_epoch = current_epoch


class Closed(Refused):
    """A terminal record stands in the log; only notes may follow."""

    def __init__(self, log: str, kind: str) -> None:
        super().__init__(f"log {log} is closed by a record of kind {kind!r}")
        self.log = log
        self.kind = kind


class InvalidRecord(LogError):
    """A draft that cannot be stored."""

    def __init__(self, log: str, kind: str, reason: str) -> None:
        super().__init__(f"log {log}: record of kind {kind!r} cannot be stored: {reason}")
        self.log = log
        self.kind = kind
        self.reason = reason


class CorruptRecord(LogError):
    """A stored record that cannot be trusted. Records before `index` are good: fork the log there."""

    def __init__(self, log: str, index: int, reason: str) -> None:
        super().__init__(f"log {log}: record {index} is corrupt: {reason}")
        self.log = log
        self.index = index
        self.reason = reason


class UnsupportedFormat(LogError):
    """A record of a format that this version does not read."""

    def __init__(self, log: str, index: int, found: object, supported: tuple[int, ...]) -> None:
        age = "a newer version" if isinstance(found, int) and found > max(supported) else "an unknown version"
        super().__init__(
            f"log {log}: record {index} has format {found!r}, written by {age}; this one reads {supported}"
        )
        self.log = log
        self.index = index
        self.found = found
        self.supported = supported


class CodecError(LogError):
    """A value and its durable form do not fit."""


class CannotEncode(CodecError):
    """A value without a durable form."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot store {path}: {reason}")
        self.path = path
        self.reason = reason


class CannotDecode(CodecError):
    """A stored value that the code at hand cannot read."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read {path}: {reason}")
        self.path = path
        self.reason = reason


class CorruptBlob(LogError):
    """Stored bytes whose digest is not their name."""

    def __init__(self, sha256: str, found: str) -> None:
        super().__init__(f"blob {sha256} is corrupt: {found}")
        self.sha256 = sha256
        self.found = found


class StoreError(LogError):
    """The storage did not do what was asked."""


class AlreadyExists(StoreError):
    """The key is taken. It says nothing about who took it: an answer that was lost looks the same."""

    def __init__(self, uri: str, key: str) -> None:
        super().__init__(f"{uri}: {key} exists already")
        self.uri = uri
        self.key = key


class NotFound(StoreError):
    """No object has this key."""

    def __init__(self, uri: str, key: str) -> None:
        super().__init__(f"{uri}: no object {key}")
        self.uri = uri
        self.key = key


class InvalidKey(StoreError):
    """A key that some storage would change, hide or take for a way out of its folder."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"invalid key {key!r}: {reason}")
        self.key = key
        self.reason = reason


class InvalidUri(StoreError):
    """A storage URI that cannot be understood."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"invalid storage {uri!r}: {reason}")
        self.uri = uri
        self.reason = reason


class LyingStore(StoreError):
    """The store reports success for a conditional create of a key that exists: two writers would both win."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{uri} ignores `If-None-Match: *`: a second create of the same key was accepted; it cannot hold a log"
        )
        self.uri = uri


class NoHardLinks(StoreError):
    """The file system cannot create a name only if it is free, with its content complete."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{uri}: this file system has no hard links; it cannot hold a log (use another folder, or s3://)"
        )
        self.uri = uri


class StoreFull(StoreError):
    """No space left. Nothing recorded is lost; go on after making room."""

    def __init__(self, uri: str, key: str, reason: str) -> None:
        super().__init__(f"{uri}: no space left to write {key}: {reason}")
        self.uri = uri
        self.key = key
        self.reason = reason


class StoreDenied(StoreError):
    """Credentials or permissions do not allow it."""

    def __init__(self, uri: str, key: str, reason: str) -> None:
        super().__init__(f"{uri}: access to {key} denied: {reason}")
        self.uri = uri
        self.key = key
        self.reason = reason


class StoreRejected(StoreError):
    """The store will not do it, and asking again will not help (no such bucket, bad request)."""

    def __init__(self, uri: str, key: str, reason: str) -> None:
        super().__init__(f"{uri}: request for {key} rejected: {reason}")
        self.uri = uri
        self.key = key
        self.reason = reason


class StoreUnavailable(StoreError):
    """No clear answer. A write may or may not have happened; asking again may help."""

    def __init__(self, uri: str, key: str, reason: str) -> None:
        super().__init__(f"{uri}: no clear answer about {key}: {reason}")
        self.uri = uri
        self.key = key
        self.reason = reason
