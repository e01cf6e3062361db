"""placeholder while being written"""

from __future__ import annotations

import os
from pathlib import Path


def state_folder(storage: str) -> Path:
    return Path(os.environ.get("EVERLOOP_STATE", "everloop-state"))


def connect(state: Path) -> None:
    import ray

    if not ray.is_initialized():
        ray.init(address=os.environ["RAY_ADDRESS"])
