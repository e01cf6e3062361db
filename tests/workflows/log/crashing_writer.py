"""A process that does everything the package can do once, and goes on where an earlier one died.

`python -m tests.workflows.log.crashing_writer URI FOLDER`
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.workflows.log.counting import Ledger
from workflows.log import (
    BlobRef,
    Blobs,
    Draft,
    Log,
    TreeRef,
    collect_garbage,
    decode,
    encode,
    fork_log,
    log,
    log_references,
    open_store,
)

NUM_OPERATIONS = 6


def main(uri: str, folder: Path) -> None:
    log.EVERY = 2  # type: ignore[attr-defined] - so that a short log has snapshots
    store = open_store(uri)
    blobs = Blobs(store)
    journal = Log(store, "journal", Ledger())
    for number in range(journal.length, NUM_OPERATIONS):
        value = encode(
            {"number": number, "values": [blobs.put(f"value {number}".encode()), store_files(blobs, folder, number)]},
            blobs,
        )
        operation = f"op-{number}"
        journal.append(
            lambda state, operation=operation, value=value: (
                None
                if operation in state.operations
                else Draft("moved", {"operation": operation, "amount": 1, "value": value})
            )
        )
    fork_log(store, "journal", "fork", NUM_OPERATIONS)
    garbage = Blobs(store, prefix="garbage", grace_s=-60.0)  # so that what was just written is old
    garbage.put(b"nobody names this")
    collect_garbage(garbage, [])
    collect_garbage(blobs, log_references(store, "journal"))


def store_files(blobs: Blobs, folder: Path, number: int) -> TreeRef:
    (folder / f"file-{number}").write_bytes(f"file {number}".encode() * 1_000)
    return blobs.put_tree(folder)


def check(uri: str) -> None:
    """What must be true once a writer has come to its end, whoever died before it."""
    store = open_store(uri)
    blobs = Blobs(store)
    journal = Log(store, "journal", Ledger())
    assert journal.state.operations == tuple(f"op-{number}" for number in range(NUM_OPERATIONS))
    assert journal.verify().ok
    assert Log(store, "fork", Ledger()).verify().length == NUM_OPERATIONS
    for number, record in enumerate(journal.records()):
        value = decode(record.data["value"], blobs)
        blob, tree = value["values"]
        assert isinstance(blob, BlobRef)
        assert blobs.get(blob) == f"value {number}".encode()
        for name, file in blobs.tree(tree).items():
            assert blobs.get(file) == name.replace("-", " ").encode() * 1_000
    assert list(store.list("garbage")) == []


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
