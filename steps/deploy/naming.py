"""Names in Ray Serve: they carry a hash of the storage, so that two storages on one cluster do not meet."""

from __future__ import annotations

import hashlib


def storage_hash(storage: str) -> str:
    return hashlib.sha256(storage.rstrip("/").encode()).hexdigest()[:8]


def application_prefix(storage: str, alias: str) -> str:
    """What the names of an alias's model applications begin with."""
    return f"everloop-{storage_hash(storage)}-{alias}--"


def application_name(storage: str, alias: str, version: str) -> str:
    """Name of the application of a model version."""
    return application_prefix(storage, alias) + "".join(c if c.isalnum() or c in ".-_" else "-" for c in version)


def router_name(storage: str) -> str:
    """Name of the application that owns `/v1`."""
    return f"everloop-{storage_hash(storage)}-router"
