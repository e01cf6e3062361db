"""Runs tests/airflow_loop once more in Airflow's own environment: there nothing of it skips."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.airflow_loop.real_airflow import REPOSITORY, installed

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

TOOLS = ("pytest>=9", "pytest-asyncio>=1.3", "aiohttp>=3.14,<4")


def test_nothing_skips_and_all_passes_where_airflow_is(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    uv = shutil.which("uv") or str(REPOSITORY / ".tools" / "bin" / "uv")
    python = installed(tmp_path_factory) / "bin" / "python"
    tools = tmp_path / "tools"
    subprocess.run([uv, "pip", "install", "-q", "--python", str(python), "--target", str(tools), *TOOLS], check=True)
    done = subprocess.run(
        [str(python), "-m", "pytest", "-c", "in_airflow.ini", "-p", "no:cacheprovider", "."],
        cwd=REPOSITORY / "tests" / "airflow_loop",
        env={**os.environ, "PYTHONPATH": str(tools), "AIRFLOW_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert re.search(r"\b[1-9]\d+ passed", summary), summary
    assert "skipped" not in summary, summary
