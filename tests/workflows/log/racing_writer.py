"""A process that races others for the slots of a ledger.

`python -m tests.workflows.log.racing_writer URI NAME COUNT`
"""

from __future__ import annotations

import json
import sys

from tests.workflows.log.counting import Ledger, Overdrawn, move
from workflows.log import Closed, Log, open_store


def main(uri: str, name: str, count: int) -> None:
    log = Log(open_store(uri), "ledgers/raced", Ledger())
    written: list[list[object]] = []
    for number in range(count):
        operation, amount = f"{name}-{number}", 1 if number % 3 else -1
        try:
            record = log.append(move(operation, amount))
        except Overdrawn:
            continue
        except Closed:
            break
        assert record is not None
        written.append([record.index, operation, record.record_id])
    print(json.dumps(written))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
