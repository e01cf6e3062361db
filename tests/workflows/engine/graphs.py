"""Small graphs that tests run: every step says that it ran by adding a file to a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from workflows.engine import step


def seen(folder: str, name: str) -> int:
    """How often the step has run."""
    return len(list(Path(folder).glob(f"{name}.*"))) if Path(folder).exists() else 0


def ran(folder: str, name: str) -> int:
    """Leaves a trace of one run of a step, and says the how many-th it was."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{name}.{os.getpid()}.{time.time_ns()}").touch()
    return seen(folder, name)


@step
def one(folder: str) -> int:
    ran(folder, "one")
    return 1


@step
def add(left: int, right: int, folder: str, name: str) -> int:
    ran(folder, name)
    return left + right


def small(config: dict[str, Any]) -> Any:
    """1 + 1 and 1 + 10 side by side, then their sum: 13."""
    folder = config["folder"]
    first = one.bind(folder)
    left = add.named("left").bind(first, 1, folder, "left")
    right = add.named("right").bind(first, 10, folder, "right")
    return add.named("total").bind(left, right, folder, "total")
