"""A Ray for a step that runs alone."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NUM_LOGICAL_CPUS = 4
"""Shares, not cores: two train workers of 1, one for data, the rest for coordination."""


@contextmanager
def local_ray() -> Iterator[None]:
    """Connects to `RAY_ADDRESS`, or starts a Ray on loopback for the time of the block."""
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(ignore_reinit_error=True, log_to_driver=False)
        yield
        return
    # Ray reads these when it is imported. Under `uv run` it would give each worker a copy of the project.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    # Short, because the paths of Ray's sockets below it may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="el-", dir="/tmp"))
    repository = str(Path(__file__).resolve().parents[2])
    try:
        ray.init(
            num_cpus=NUM_LOGICAL_CPUS,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(folder),
            runtime_env={"env_vars": {"PYTHONPATH": repository}},
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
