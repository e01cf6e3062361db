"""Renders pages that are mostly script, in a headless Chromium driven by Selenium.

Takes pages that a fetcher has brought; gives them with the HTML that their scripts made. Only those pages come here: a
browser costs a hundred times what a fetch does. `steps.scrape.workers` makes a Ray actor of `Browser`. Chromium's
traffic goes through `steps.scrape.egress`, and its processes run under `steps.scrape.guard`: they are gone when the
actor is, even by kill -9.
"""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from steps.scrape.address import AddressPolicy
from steps.scrape.egress import serve_egress
from steps.scrape.errors import BrowserMissingError
from steps.scrape.guard import guarded
from steps.scrape.pages import FetchedBatch, FetchedPage, FetchSettings

logger = logging.getLogger(__name__)

CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
CHROMEDRIVER = ("/usr/bin/chromedriver", "/usr/lib/chromium-browser/chromedriver")

MAX_PAGES = 100
"""Pages after which Chromium is started anew; it grows."""

START_S = 60.0

_SETTLE_S = 0.8
"""A page that has not changed for so long is taken to be ready."""

_POLL_S = 0.05

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # in containers there are no user namespaces to build one of
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--metrics-recording-only",
    "--proxy-bypass-list=<-loopback>",  # loopback too goes through the proxy
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--blink-settings=imagesEnabled=false",
)


class Browser:
    """One Chromium.

    Args:
        settings: Limits and manners.
    """

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._policy = AddressPolicy(allow_private=settings.allow_private, routes=settings.routes)
        self._running = ExitStack()
        self._driver: Any = None
        self._num_pages = 0
        self._not_before = 0.0

    def check(self) -> None:
        """Passes if this machine can render pages.

        Raises:
            BrowserMissingError: Selenium, Chromium or its driver is not there.
        """
        try:
            import selenium  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise BrowserMissingError("the package selenium is not installed") from error
        _first_file("Chromium", CHROMIUM)
        _first_file("chromedriver", CHROMEDRIVER)

    def render(self, pages: Sequence[FetchedPage]) -> FetchedBatch:
        """Renders pages one after another; one that fails has the reason `browser_failed`."""
        return FetchedBatch(pages=tuple(self._render(page) for page in pages))

    def close(self) -> None:
        """Ends Chromium and the proxy."""
        self._driver = None
        self._running.close()

    def _render(self, page: FetchedPage) -> FetchedPage:
        from selenium.common.exceptions import WebDriverException
        from urllib3.exceptions import HTTPError

        if self._num_pages >= MAX_PAGES:
            self.close()
        time.sleep(max(0.0, self._not_before - time.monotonic()))
        try:
            if self._driver is None:
                self._start()
            html = self._load(page.url)
        except (WebDriverException, HTTPError, OSError) as error:
            # Whatever state it is in: the next page gets a new one.
            self.close()
            return replace(
                page, reason="browser_failed", detail=f"{type(error).__name__}: {str(error)[:200]}", body=b""
            )
        finally:
            self._not_before = time.monotonic() + self._settings.delay_s
        if len(html) > self._settings.max_bytes:
            return replace(page, reason="too_large", detail=f"renders to {len(html)} bytes", body=b"")
        return replace(page, body=html, content_type="text/html; charset=utf-8", rendered=True)

    def _load(self, url: str) -> bytes:
        self._policy.check_url(url)
        self._num_pages += 1
        self._driver.get(url)
        # Scripts go on after the load event. Wait until the text has stood still for a moment.
        deadline = time.monotonic() + self._settings.page_timeout_s
        html, since = "", time.monotonic()
        while time.monotonic() < deadline:
            now = str(self._driver.page_source)
            if now != html:
                html, since = now, time.monotonic()
            elif time.monotonic() - since > _SETTLE_S:
                break
            time.sleep(_POLL_S)
        return html.encode("utf-8", errors="replace")

    def _start(self) -> None:
        from selenium.webdriver import ChromeOptions, Remote
        from selenium.webdriver.common.proxy import Proxy, ProxyType
        from selenium.webdriver.remote.client_config import ClientConfig

        proxy_port = self._running.enter_context(serve_egress(self._policy))
        profile = Path(tempfile.mkdtemp(prefix="everloop-browser-"))
        self._running.callback(shutil.rmtree, profile, ignore_errors=True)
        driver_port = _start_driver(self._running, profile)
        options = ChromeOptions()
        options.binary_location = _first_file("Chromium", CHROMIUM)
        for flag in (
            *_FLAGS,
            f"--proxy-server=http://127.0.0.1:{proxy_port}",
            f"--user-data-dir={profile / 'profile'}",
        ):
            options.add_argument(flag)
        options.add_argument(f"--user-agent={self._settings.user_agent}")
        options.page_load_strategy = "normal"
        address = f"http://127.0.0.1:{driver_port}"
        config = ClientConfig(address, timeout=int(START_S), proxy=Proxy({"proxyType": ProxyType.DIRECT}))
        self._driver = Remote(address, options=options, client_config=config)
        self._driver.set_page_load_timeout(self._settings.page_timeout_s)
        self._num_pages = 0


def _start_driver(running: ExitStack, folder: Path) -> int:
    """Starts chromedriver under a guard; both and all that they start are killed when `running` closes."""
    port = _free_port()
    command = [_first_file("chromedriver", CHROMEDRIVER), f"--port={port}", "--allowed-ips=127.0.0.1"]
    with (folder / "driver.log").open("wb") as log:
        process = subprocess.Popen(
            guarded(command), stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    running.callback(_stop, process)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with direct.open(f"http://127.0.0.1:{port}/status", timeout=5):
                return port
        except OSError:
            time.sleep(_POLL_S)
    raise OSError(f"chromedriver did not answer: {(folder / 'driver.log').read_bytes()[-300:]!r}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_file(what: str, paths: Sequence[str]) -> str:
    for path in paths:
        if Path(path).is_file():
            return path
    raise BrowserMissingError(f"{what} is not at {' or '.join(paths)}")
