"""This machine's own Ray head, by hand: `python -m workflows.engine up | down --state FOLDER`.

`up` starts it, or finds it, and prints where it is as one JSON line; runs that use the same state folder attach to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from workflows.engine import head
from workflows.engine.errors import HeadError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m workflows.engine", description=(__doc__ or "").splitlines()[0])
    made.add_argument("action", choices=["up", "down"])
    made.add_argument("--state", type=Path, required=True, metavar="FOLDER", help="where the head is recorded")
    made.add_argument("--dashboard", action="store_true", help="with the Jobs and State REST interfaces")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed."""
    options = parser().parse_args(argv)
    state = options.state.absolute()
    if options.action == "down":
        head.stop(state)
        return 0
    try:
        found = head.start(state, dashboard=options.dashboard)
    except HeadError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
