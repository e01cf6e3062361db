"""The log of a dataset: `datasets/<name>`. Its first record fixes what no version may change.

created   {settings: {heldout_fraction, num_buckets, schema}}
version   a manifest: version, parent, operation, schema, files, digest, counts, lineage
tag       {name, version}; the last one counts
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from steps.common.parquet import MEDIA_TYPE
from steps.common.results import DatasetVersion
from steps.version.config import NAME
from steps.version.errors import InvalidTagError, UnknownVersionError
from workflows.log import BlobRef, Log, Record, Store

_NUMBER = re.compile(r"v?(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a dataset's first record fixes for all versions.

    Attributes:
        heldout_fraction: Share of documents held out, by the hash of their id.
        num_buckets: Buckets that rows are spread over, by another hash of their id.
        schema: Hash of the rows' schema.
    """

    heldout_fraction: float
    num_buckets: int
    schema: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketFile:
    """The rows of one bucket: a Parquet blob, sorted by `doc_id`. A bucket without rows has no file."""

    bucket: int
    sha256: str
    num_bytes: int
    num_rows: int
    num_heldout: int

    @property
    def ref(self) -> BlobRef:
        """Names the blob."""
        return BlobRef(self.sha256, self.num_bytes, MEDIA_TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of a dataset.

    Attributes:
        version: Counted from 1.
        parent: The version it was merged onto; 0 for the first.
        operation: The token of the step that made it: one operation makes one version, however often it runs.
        schema: Hash of the rows' schema.
        digest: SHA-256 over schema and files.
        files: By bucket.
        num_added: Rows new against the parent; `num_changed` and `num_removed` alike.
        lineage: The run and step that made it, digests of the validated and rejected rows, and what cleaning counted.
        created_at: Unix seconds.
    """

    version: int
    parent: int
    operation: str
    schema: str
    digest: str
    files: tuple[BucketFile, ...]
    num_added: int
    num_changed: int
    num_removed: int
    lineage: Mapping[str, Any]
    created_at: float = 0.0

    def result(self, name: str) -> DatasetVersion:
        """Returns the version as the step's result."""
        num_rows, num_heldout = sum(f.num_rows for f in self.files), sum(f.num_heldout for f in self.files)
        return DatasetVersion(
            name=name,
            version=self.version,
            digest=self.digest,
            files=tuple(file.ref for file in self.files),
            num_train=num_rows - num_heldout,
            num_heldout=num_heldout,
            num_bytes=sum(file.num_bytes for file in self.files),
            num_added=self.num_added,
            num_changed=self.num_changed,
            num_removed=self.num_removed,
        )

    def dump(self) -> dict[str, Any]:
        """Returns the manifest as JSON values, without the time, which the record has."""
        data = asdict(self)
        del data["created_at"]
        return data

    @classmethod
    def load(cls, data: Mapping[str, Any], created_at: float) -> Manifest:
        """Makes a manifest of what `dump` returned."""
        files = tuple(BucketFile(**file) for file in data["files"])
        return cls(**{**data, "files": files, "created_at": created_at})


@dataclass(frozen=True, slots=True)
class DatasetState:
    """A dataset as its log tells it."""

    settings: Settings | None = None
    versions: tuple[Manifest, ...] = ()
    tags: Mapping[str, int] = field(default_factory=dict)

    @property
    def latest(self) -> Manifest | None:
        """The newest version."""
        return self.versions[-1] if self.versions else None

    @property
    def num_versions(self) -> int:
        """The number of the newest version, 0 if there is none."""
        return len(self.versions)

    def made_by(self, operation: str) -> Manifest | None:
        """Returns the version that an operation made."""
        return next((manifest for manifest in reversed(self.versions) if manifest.operation == operation), None)

    def find(self, dataset: str, wanted: str) -> Manifest:
        """Returns a version by number (`3`, `v3`), tag, or `latest`.

        Raises:
            UnknownVersionError: There is no such version or tag.
        """
        match = _NUMBER.fullmatch(wanted)
        number = int(match[1]) if match else self.num_versions if wanted == "latest" else self.tags.get(wanted, 0)
        if not 1 <= number <= self.num_versions:
            raise UnknownVersionError(dataset, wanted, self.num_versions)
        return self.versions[number - 1]


class DatasetFold:
    """How the records of `datasets/<name>` become its state."""

    version = 1

    def initial(self) -> DatasetState:
        """Returns a dataset without versions."""
        return DatasetState()

    def apply(self, state: DatasetState, record: Record) -> DatasetState:
        """Returns the state after one more record."""
        if record.kind == "created":
            return replace(state, settings=Settings(**record.data["settings"]))
        if record.kind == "version":
            return replace(state, versions=(*state.versions, Manifest.load(record.data, record.at)))
        if record.kind == "tag":
            return replace(state, tags={**state.tags, record.data["name"]: record.data["version"]})
        return state

    def dump(self, state: DatasetState) -> Any:
        """Returns the state as JSON values."""
        return {
            "settings": None if state.settings is None else asdict(state.settings),
            "versions": [{"at": manifest.created_at, "manifest": manifest.dump()} for manifest in state.versions],
            "tags": dict(state.tags),
        }

    def load(self, data: Any) -> DatasetState:
        """Returns the state that `dump` gave."""
        settings = None if data["settings"] is None else Settings(**data["settings"])
        versions = tuple(Manifest.load(row["manifest"], row["at"]) for row in data["versions"])
        return DatasetState(settings, versions, data["tags"])


def open_dataset(store: Store, name: str) -> Log[DatasetState]:
    """Opens the log of a dataset; touches no storage."""
    return Log(store, f"datasets/{name}", DatasetFold())


def check_tag(tag: str) -> str:
    """Returns a tag that cannot be taken for a version.

    Raises:
        InvalidTagError: It can, or has characters that no tag has.
    """
    if not NAME.fullmatch(tag) or _NUMBER.fullmatch(tag) or tag == "latest":
        raise InvalidTagError(tag)
    return tag


def in_order(files: Iterable[BucketFile]) -> tuple[BucketFile, ...]:
    """Returns files by bucket."""
    return tuple(sorted(files, key=lambda file: file.bucket))
