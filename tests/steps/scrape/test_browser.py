from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from steps.scrape import ScrapeConfig, run
from steps.scrape.browser import CHROMEDRIVER, CHROMIUM, Browser
from steps.scrape.errors import BrowserMissingError
from steps.scrape.pages import FetchedPage, FetchSettings

needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("selenium") is None
    or not any(Path(path).is_file() for path in CHROMIUM)
    or not any(Path(path).is_file() for path in CHROMEDRIVER),
    reason="needs the extra `browser` and Chromium with its driver",
)

SHELL = """<html><head><title>shell</title></head><body><div id="root"></div><script>
setTimeout(() => fetch("/data").then(a => a.text()).then(t => { document.getElementById("root").innerText = t; }), 100);
</script></body></html>"""

TEXT = "What stands here was put here by a script after the page had been loaded, and no fetcher would have seen it. "


def make_browser(site: Any) -> Browser:
    return Browser(
        FetchSettings(
            allow_private=False,
            user_agent="Everloop/0.1",
            robots_token="Everloop",
            delay_s=0.0,
            concurrency_per_host=2,
            page_timeout_s=30.0,
            max_attempts=1,
            max_bytes=1 << 20,
            batch_s=30.0,
            routes={"site.localhost": ("127.0.0.1", site.port)},
        )
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def chromium_processes() -> set[int]:
    found = set()
    for process in psutil.process_iter(["name", "status"]):
        if "chrom" in (process.info["name"] or "") and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(process.pid)
    return found


@pytest.fixture
def no_process_left() -> Iterator[set[int]]:
    before = chromium_processes()
    yield before
    wait_until(lambda: chromium_processes() <= before)


def test_a_missing_browser_is_named_with_what_to_install(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steps.scrape.browser.CHROMIUM", ("/no/such/chromium",))
    monkeypatch.setitem(__import__("sys").modules, "selenium", __import__("types").ModuleType("selenium"))
    with pytest.raises(BrowserMissingError, match=r"/no/such/chromium.*extra `browser`"):
        make_browser(site).check()


@pytest.mark.browser
@needs_browser
def test_a_page_is_rendered_and_cannot_reach_other_addresses(
    site: Any, make_site: Any, no_process_left: set[int]
) -> None:
    inside = make_site()
    inside.pages["/secret"] = "secret"
    site.pages["/data"] = TEXT
    site.pages["/"] = SHELL.replace(
        "</script>", f'fetch("http://127.0.0.1:{inside.port}/secret"); fetch("http://169.254.169.254/");</script>'
    )
    browser = make_browser(site)
    try:
        (page,) = browser.render([FetchedPage(url="http://site.localhost/", status=200)]).pages
    finally:
        browser.close()
    assert page.rendered
    assert TEXT.strip() in page.body.decode()
    assert inside.log == []


@pytest.mark.browser
@pytest.mark.ray
@needs_browser
def test_a_page_that_needs_javascript_is_crawled_through_a_kill_9_and_no_process_is_left(
    ray_head: str, site: Any, make_article: Any, surroundings: Any, rows_of: Any, no_process_left: set[int]
) -> None:
    killed: list[int] = []

    def data(request: Any) -> str:
        if not killed:
            # The actor is the parent of the guard, which is the parent of chromedriver.
            driver = next(
                psutil.Process(pid) for pid in chromium_processes() - no_process_left if _is_driver(psutil.Process(pid))
            )
            actor = driver.parents()[1]
            killed.append(actor.pid)
            os.kill(actor.pid, signal.SIGKILL)
        return TEXT

    site.pages |= {"/": make_article("start", ("/app",)), "/app": SHELL, "/data": data}
    config = ScrapeConfig(seeds=(site.url + "/",), allow_private=True, delay_s=0.0, browser="auto")
    ctx = surroundings()
    rows = rows_of(run(config, ctx), ctx)
    assert len(killed) == 1
    assert {row["url"].removeprefix(site.url): row["text"] for row in rows}["/app"] == TEXT.strip()
    again = run(config, surroundings("again"))
    assert (again.documents, again.num_unchanged) == ((), 2)


def _is_driver(process: psutil.Process) -> bool:
    return "chromedriver" in " ".join(process.cmdline()[:1])
