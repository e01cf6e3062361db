"""How a run began: its first record, which never changes. Reading it costs one look, however long the run became."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workflows.engine.errors import RunNotFound
from workflows.log import Blobs, decode, stored_records


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first record of a run.

    Attributes:
        config: What it was started with.
        cause: Why.
        parent: The run it was forked from, or empty.
        created_at: Unix seconds.
    """

    config: Any
    cause: Any
    parent: str
    created_at: float


def beginning(run_id: str, blobs: Blobs) -> Beginning:
    """Reads how a run began.

    Raises:
        RunNotFound: There is none of that id.
        workflows.log.CorruptRecord: The record cannot be trusted.
    """
    record = next(stored_records(blobs.store, f"runs/{run_id}"), None)
    if record is None:
        raise RunNotFound(run_id, blobs.store.uri)
    data = record.data
    return Beginning(
        decode(data["config"], blobs),
        data.get("cause"),
        (data.get("parent") or {}).get("run", ""),
        float(data.get("at", record.at)),
    )
