"""Why the step stops.

VersionError
|- FixedSettingError       a setting differs from what the dataset's first record fixed for ever
|- EmptyDatasetError       the version would have no rows
|- UnknownVersionError     no such version or tag
|- InvalidTagError         a tag that could be taken for a version
`- ContendedDatasetError   others committed each time a merge was ready; the only one worth a retry
ParentChanged              (Refused, inside this package) another version was committed since the merge began
"""

from __future__ import annotations

from typing import Any

from workflows.log import Refused


class VersionError(Exception):
    """Base of the errors of this step."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(vars(self).values())


class FixedSettingError(VersionError):
    """A setting that the dataset's first record fixed was changed."""

    def __init__(self, dataset: str, key: str, fixed: object, asked: object) -> None:
        super().__init__(
            f"version.{key}={asked!r}: dataset {dataset!r} was made with {fixed!r}, and every version of it "
            f"must be the same; use {fixed!r}, or another version.name"
        )
        self.dataset = dataset
        self.key = key
        self.fixed = fixed
        self.asked = asked


class EmptyDatasetError(VersionError):
    """There is nothing to make a version of."""

    def __init__(self, dataset: str, num_in: int, num_removed: int) -> None:
        super().__init__(
            f"dataset {dataset!r} would be empty: {num_in} documents were looked at, none is left"
            + (f" after {num_removed} were dropped" if num_removed else "")
        )
        self.dataset = dataset
        self.num_in = num_in
        self.num_removed = num_removed


class UnknownVersionError(VersionError):
    """A version or tag that the dataset does not have."""

    def __init__(self, dataset: str, wanted: str, num_versions: int) -> None:
        known = f"versions 1 to {num_versions}" if num_versions else "no version yet"
        super().__init__(f"dataset {dataset!r} has no version {wanted!r}; it has {known}")
        self.dataset = dataset
        self.wanted = wanted
        self.num_versions = num_versions


class InvalidTagError(VersionError):
    """A name that cannot be a tag."""

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"tag {tag!r} must be lower-case letters, digits, dot, dash or underscore, "
            "and no version such as 3, v3 or latest"
        )
        self.tag = tag


class ContendedDatasetError(VersionError):
    """Others committed to the dataset each time a merge was ready."""

    def __init__(self, dataset: str, num_attempts: int) -> None:
        super().__init__(f"dataset {dataset!r}: others committed during each of {num_attempts} merges; try again")
        self.dataset = dataset
        self.num_attempts = num_attempts


class ParentChanged(Refused):
    """Another version was committed since the merge began."""

    def __init__(self, dataset: str, merged_onto: int, latest: int) -> None:
        super().__init__(f"dataset {dataset!r}: merged onto version {merged_onto}, but the latest is {latest}")
        self.dataset = dataset
        self.merged_onto = merged_onto
        self.latest = latest
