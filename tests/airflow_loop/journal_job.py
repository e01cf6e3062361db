"""A job that keeps a journal, to count what runs how often: journal_job.py RUN_ID FOLDER [EXIT_CODE].

Two steps. Each is done once, whoever does it: a step that stands in the journal is passed over. Between them the job
waits until the file `release` appears in the folder. Like a round of the loop it reads all the data that is there when
it begins.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(run_id: str, folder: str, exit_code: str = "0") -> int:
    """Runs the job and returns its exit code."""
    journal = Path(folder) / run_id
    journal.mkdir(parents=True, exist_ok=True)
    number = len(list(journal.glob("start-*")))
    (journal / f"start-{number}").write_text(str(os.getpid()))
    data = sorted(path.name for path in (Path(folder) / "data").glob("*"))
    _step(journal, "first")
    while not (Path(folder) / "release").exists():
        time.sleep(0.1)
    _step(journal, "second")
    print(json.dumps({"run_id": run_id, "status": "succeeded", "starts": number + 1, "data": data}))
    return int(exit_code)


def _step(journal: Path, name: str) -> None:
    if (journal / name).exists():
        return
    with (journal / f"{name}-ran").open("a") as counted:
        counted.write("x")
    (journal / name).touch()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
