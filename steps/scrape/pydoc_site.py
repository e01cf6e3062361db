"""The default source: this Python's own documentation, as `python -m pydoc` serves it.

Works offline and everywhere. The server is pydoc's own, run by the base interpreter without site-packages, on a free
loopback port, and ends with the step. Its pages have URLs below `http://pydoc.localhost/`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steps.scrape.config import ScrapeConfig
from steps.scrape.errors import SourceNotStartedError
from steps.scrape.guard import guarded
from steps.scrape.source import Source, source_name

HOST = "pydoc.localhost"

START_S = 60.0
"""Waiting time for the server; it answers after 0.2 s on an idle machine."""

_READY = re.compile(rb"Server ready at http://127\.0\.0\.1:(\d+)/")

EXCLUDE = (
    # pydoc imports what it shows, and importing these starts something: a web browser, IDLE, test suites, programs.
    r"^/(antigravity|this|idlelib|test|turtledemo|lib2to3\.pgen2\.conv)\b|\b__main__\b|\btests?\b"
    # Forms, and a second copy of the topics.
    r"|^/(get|search)\b|^/keywords\.html|^/topic\?key=[a-z]"
)

DROP = (
    "//body/div[contains(@style, 'float')]",  # version, links to the three indexes
    "//td[@class='extra']",  # path of the module's file
)

VOLATILE = (
    # Addresses in the representation of default values.
    r" at 0x[0-9a-f]{6,16}\b|(?<=handle )[0-9a-f]{6,16}\b"
    # What the server has imported so far.
    r"|(?<=\n)modules = \{[^\n]*"
    # There once something has warned, which depends on the pages shown before; with its heading if it is alone.
    r"|\n+Data\n+__warningregistry__ = [^\n]*(?=\n\n|\Z)|\n?__warningregistry__ = [^\n]*"
)


@contextmanager
def serve_pydoc(config: ScrapeConfig, scratch: Path) -> Iterator[Source]:
    """Runs the server; it is gone when the block ends, or when this process does.

    Raises:
        SourceNotStartedError: The server ended or said nothing within `START_S`.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    output = scratch / "pydoc.log"
    # The base interpreter: in a virtual environment the running one would find the environment's packages.
    python = getattr(sys, "_base_executable", None) or sys.executable
    command = [python, "-I", "-S", "-W", "ignore", "-u", "-m", "pydoc", "-n", "127.0.0.1", "-p", "0"]
    with output.open("wb") as log:
        # Almost no environment: pydoc shows os.environ, and secrets do not belong into a dataset.
        server = subprocess.Popen(
            guarded(command),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=sysconfig.get_path("stdlib"),  # on its path anyway; pydoc would add and show any other folder
            env={"PATH": os.defpath, "HOME": "/nonexistent", "LANG": "C.UTF-8", "BROWSER": "/bin/false"},
            start_new_session=True,
        )
    try:
        port = _wait_for_port(server, output, START_S)
        yield Source(
            name=source_name(config),
            seeds=(f"http://{HOST}/topics.html", f"http://{HOST}/index.html"),
            sites=frozenset({f"{HOST}:80"}),
            delay_s=config.delay_s or 0.0,
            routes={HOST: ("127.0.0.1", port)},
            exclude=EXCLUDE,
            drop=DROP,
            volatile=VOLATILE,
        )
    finally:
        if server.stdin is not None:
            server.stdin.close()
        server.wait()


def _wait_for_port(server: subprocess.Popen[bytes], output: Path, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        said = output.read_bytes()
        if found := _READY.search(said):
            return int(found[1])
        if server.poll() is not None:
            raise SourceNotStartedError("pydoc", f"it ended with {server.returncode}: {said[-300:]!r}")
        time.sleep(0.02)
    raise SourceNotStartedError("pydoc", f"it was not ready after {timeout_s:g} s")
