"""Drives a run in a process of its own: `python -m tests.workflows.engine.drive STORAGE RUN_ID [TTL_S]`; prints how
it ended.
"""

from __future__ import annotations

import sys

from workflows.engine import Engine, Pace, RunBusy, RunOver
from workflows.log import Fenced


def main() -> None:
    storage, run_id = sys.argv[1:3]
    ttl_s = float(sys.argv[3]) if len(sys.argv) > 3 else 3.0
    engine = Engine(storage, pace=Pace(poll_s=0.02, grace_s=1.0, ttl_s=ttl_s))
    try:
        view = engine.drive(run_id)
    except (Fenced, RunBusy, RunOver) as error:
        print(type(error).__name__)
    else:
        print(view.status)


if __name__ == "__main__":
    main()
