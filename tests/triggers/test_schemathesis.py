"""Schemathesis over the running door: real loop, real engine, a folder. Nothing that it thinks of is a server error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from workflows.access import verify_audit

pytestmark = pytest.mark.services
ROOT = Path(__file__).parents[2]
VERSION = "4.32.5"
NUM_EXAMPLES = 8


@pytest.fixture(scope="module")
def schemathesis() -> list[str]:
    """Its command, in an environment of its own: it does not share our dependencies."""
    uv = shutil.which("uv") or next((str(path) for path in (ROOT / ".tools/bin/uv",) if path.exists()), None)
    if uv is None:
        pytest.skip("there is no uv to install schemathesis with")
    command = [uv, "tool", "run", "--python", sys.executable, f"schemathesis=={VERSION}"]
    found = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=120, check=False)
    if found.returncode:
        pytest.skip(f"schemathesis {VERSION} cannot be installed: {found.stderr.strip().splitlines()[-1:]}")
    return command


@pytest.fixture
def site(open_durable: Any) -> Iterator[tuple[Any, str]]:
    durable = open_durable(follow_poll_s=0.01, follow_max_s=0.05)
    server = uvicorn.Server(
        uvicorn.Config(durable.client.app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the door did not open"
        time.sleep(0.05)
    yield durable, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


def test_no_request_is_a_server_error(schemathesis: list[str], site: tuple[Any, str], tmp_path: Path) -> None:
    durable, url = site
    durable.waiting()
    key = durable.keys["Person::root"]
    command = [
        *schemathesis, "run", f"{url}/openapi.json", "--url", url, "--header", f"Authorization: Bearer {key}",
        "--checks", "not_a_server_error,response_schema_conformance",
        "--phases", "examples,fuzzing", "--max-examples", str(NUM_EXAMPLES), "--seed", "1",
        "--request-timeout", "60", "--no-color",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=800, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    metrics = durable.send("Person::root", "GET", "/metrics").text
    assert 'status="5' not in metrics
    durable.access.audit.flush()
    assert verify_audit(durable.loop.engine.store, [durable.access.audit._key.public]).ok
