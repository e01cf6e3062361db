"""Rounds after the first: only what changed goes on; a good challenger is promoted, a bad one is rolled back."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from steps import scrape
from steps.common import signals
from steps.common.releases import open_release_log

pytestmark = pytest.mark.e2e

CHANGED = 3


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The bundled pages, served from a folder that a test may change."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(scrape.__file__).parent / "site", folder, dirs_exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def flags(site: tuple[Path, str]) -> list[str]:
    seeds = json.dumps([site[1]])
    settings = (f"scrape.seeds={seeds}", "scrape.allow_private=true", "signals.cooldown_s=0")
    return ["--recipe", "nano", *(part for setting in settings for part in ("--set", setting))]


@pytest.fixture(scope="module")
def first(new_loop: Callable[[], Any], flags: list[str]) -> tuple[Any, dict[str, Any]]:
    """A loop that has gone round once over the site."""
    loop = new_loop()
    return loop, loop.run(*flags)


@contextmanager
def load(loop: Any, endpoint: str) -> Iterator[Counter[str]]:
    """Asks the endpoint steadily; counts answers, and failures by kind."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                answer = loop.complete(endpoint, "nano", session=f"user-{number % 40}")
                seen["answered" if answer["choices"] else "empty"] += 1
            except urllib.error.HTTPError as error:
                seen[f"failed: {error} {error.read()[:200]!r}"] += 1
            except OSError as error:
                seen[f"failed: {error}"] += 1
            stop.wait(0.1)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def test_only_changed_pages_go_on_and_a_good_challenger_is_promoted_without_a_failed_request(
    first: tuple[Any, dict[str, Any]], site: tuple[Path, str], flags: list[str]
) -> None:
    loop, before = first
    pages = sorted(page for page in site[0].rglob("*.html") if page.name != "index.html")[:CHANGED]
    for page in pages:
        text = page.read_text()
        page.write_text(text.replace("</p>", " This sentence was added to the page a moment ago.</p>", 1))
        os.utime(page, (time.time() + 5, time.time() + 5))

    with load(loop, before["endpoint"]) as seen:
        after = loop.run(*flags, "--set", "evaluate.force=promote")

    crawl = loop.engine.output(after["run_id"], "scrape")
    dataset = loop.engine.output(after["run_id"], "version")
    assert crawl.num_changed == CHANGED
    assert (dataset.version, dataset.num_changed, dataset.num_added, dataset.num_removed) == (2, CHANGED, 0, 0)
    assert after["model_version"] == "2"
    assert after["release"] == "promoted"
    assert set(seen) == {"answered"}, seen
    assert loop.engine.output(after["run_id"], "deploy").num_requests["challenger"] > 0


def test_a_sabotaged_challenger_is_rolled_back_and_the_champion_keeps_answering(
    first: tuple[Any, dict[str, Any]], flags: list[str]
) -> None:
    loop, before = first
    champion = loop.engine.output(loop.engine.list()[-1].run_id, "deploy").champion

    with load(loop, before["endpoint"]) as seen:
        after = loop.run(*flags, "--set", "train.sabotage=random_weights", "--set", "evaluate.force=promote")

    release = loop.engine.output(after["run_id"], "deploy")
    assert release.state == "rolled_back", release.reasons
    assert release.champion == champion
    assert set(seen) == {"answered"}, seen


def test_a_signal_starts_the_next_run_without_a_person(first: tuple[Any, dict[str, Any]]) -> None:
    loop, _ = first
    known = {run.run_id for run in loop.engine.list()}
    log = signals.open_signal_log(loop.engine.store, "nano")
    champion = open_release_log(loop.engine.store, "nano").refresh().champion
    assert champion is not None
    found = signals.signal("nano", "drift", window="w1", champion=champion.version)
    for _ in range(50):
        signals.raise_signal(log, found, now=loop.engine.store.now())

    loop.call("workflows.reconcile", "--once")

    started = [run for run in loop.engine.list() if run.run_id not in known]
    assert [run.status for run in started] == ["succeeded"]
    assert started[0].run_id == signals.run_id_of(found)
    state = log.refresh()
    assert (state.active, dict(state.pending)) == (None, {})
