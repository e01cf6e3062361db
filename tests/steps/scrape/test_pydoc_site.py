from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import psutil
import pytest

from steps.scrape.config import ScrapeConfig
from steps.scrape.errors import SourceNotStartedError
from steps.scrape.pydoc_site import EXCLUDE, HOST, serve_pydoc


def test_the_server_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    with serve_pydoc(ScrapeConfig(), tmp_path) as source:
        address, port = source.routes[HOST]
        with urllib.request.urlopen(f"http://{address}:{port}/json.html", timeout=60) as answer:
            page = answer.read().decode()
        server = [process for process in psutil.process_iter(["cmdline"]) if _is_pydoc(process)]
        assert "JavaScript" in page
        assert server
    assert not any(process.is_running() for process in server)


def _is_pydoc(process: psutil.Process) -> bool:
    command = process.info["cmdline"] or []
    return command[-6:] == ["-m", "pydoc", "-n", "127.0.0.1", "-p", "0"]


def test_the_environment_of_this_process_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "hunter2")
    with serve_pydoc(ScrapeConfig(), tmp_path) as source:
        address, port = source.routes[HOST]
        with urllib.request.urlopen(f"http://{address}:{port}/os.html", timeout=60) as answer:
            assert b"hunter2" not in answer.read()


def test_a_server_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys._base_executable", "/bin/false")
    with pytest.raises(SourceNotStartedError, match="pydoc"), serve_pydoc(ScrapeConfig(), tmp_path):
        pass


@pytest.mark.parametrize(
    ("path", "is_excluded"),
    [
        ("/antigravity.html", True),
        ("/idlelib.idle.html", True),
        ("/unittest.__main__.html", True),
        ("/test.html", True),
        ("/ctypes.test.html", True),
        ("/unittest.test.testmock.html", True),
        ("/topic?key=assert", True),
        ("/keywords.html", True),
        ("/topic?key=ASSERTION", False),
        ("/unittest.html", False),
        ("/doctest.html", False),
        ("/json.html", False),
    ],
)
def test_what_starts_something_when_it_is_imported_is_not_shown(path: str, is_excluded: bool) -> None:
    assert bool(re.search(EXCLUDE, path)) is is_excluded
