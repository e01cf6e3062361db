"""The processes of a crawl: fetchers, readers and the browser. All that this step asks of Ray is here.

Nobody here keeps anything: a process that dies loses its batch, which is planned again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from steps.scrape.config import ScrapeConfig
from steps.scrape.documents import read_batch
from steps.scrape.errors import BrowserMissingError
from steps.scrape.pages import FetchedPage, FetchSettings, ReadBatch, ReadSettings
from steps.scrape.plan import MAX_BATCHES_PER_FETCHER, Batch
from steps.scrape.source import Source

logger = logging.getLogger(__name__)

FETCHER_CPUS = 0.2
READER_CPUS = 0.5
BROWSER_CPUS = 0.5

# Once more by Ray itself: a call without retries fails at once while its actor is being restarted. Repeating it is
# safe, nothing of a batch counts before its record.
_ACTOR = {"max_restarts": -1, "max_task_retries": 1}

_WAIT_S = 1.0
_CLOSE_S = 10.0


class Workers:
    """Batches on their way. Made by `open_workers`."""

    def __init__(self, fetchers: Sequence[Any], browser: Any, settings: ReadSettings) -> None:
        import ray

        self._fetchers = fetchers
        self._browser = browser
        self._settings = ray.put(settings)
        self._read = ray.remote(read_batch).options(num_cpus=READER_CPUS, max_retries=3)
        self._in_flight: dict[Any, Batch] = {}

    def start(self, batch: Batch) -> None:
        """Sends a batch to the fetcher of its host, and from there to a reader; the bodies do not pass through here."""
        fetched = self._fetchers[batch.fetcher].fetch.remote(batch.requests)
        self._in_flight[self._read.remote(batch.requests, fetched, self._settings)] = batch

    def render(self, batch: Batch, pages: Sequence[FetchedPage]) -> None:
        """Sends the pages of a batch to the browser, and from there to a reader."""
        rendered = self._browser.render.remote(pages)
        self._in_flight[self._read.remote(batch.requests, rendered, self._settings)] = batch

    @property
    def are_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._in_flight

    def landed(self) -> list[tuple[Batch, ReadBatch | None]]:
        """Waits a moment for batches to come back; None stands for one that was lost with a process."""
        import ray

        ready, _ = ray.wait(list(self._in_flight), timeout=_WAIT_S)
        return [(self._in_flight.pop(ref), _result(ref)) for ref in ready]


@contextmanager
def open_workers(config: ScrapeConfig, source: Source, settings: ReadSettings) -> Iterator[Workers]:
    """Starts the processes; they are gone when the block ends.

    Raises:
        BrowserMissingError: The config asks for a browser and there is none.
    """
    import ray

    from steps.scrape.fetcher import Fetcher

    fetch_settings = _fetch_settings(config, source)
    place = _placement(source)
    options = {"num_cpus": FETCHER_CPUS, "max_concurrency": MAX_BATCHES_PER_FETCHER + 2, **_ACTOR, **place}
    actor = ray.remote(Fetcher).options(**options)
    fetchers = [actor.remote(fetch_settings) for _ in range(config.num_fetchers)]
    browser = _start_browser(fetch_settings, place) if config.browser == "auto" else None
    try:
        yield Workers(fetchers, browser, settings)
    finally:
        if browser is not None:
            _close(browser)
        for fetcher in fetchers:
            ray.kill(fetcher)


def _fetch_settings(config: ScrapeConfig, source: Source) -> FetchSettings:
    return FetchSettings(
        allow_private=config.allow_private,
        user_agent=config.user_agent,
        robots_token=config.robots_token,
        delay_s=source.delay_s,
        concurrency_per_host=config.concurrency_per_host,
        page_timeout_s=config.page_timeout_s,
        max_attempts=config.max_attempts,
        max_bytes=config.max_bytes,
        batch_s=config.batch_s,
        routes=source.routes,
    )


def _placement(source: Source) -> dict[str, Any]:
    """A server of our own is on the loopback of this machine, so its fetchers must be here too.

    They ask for no CPU then: the node of a coordinator may be a head that has none to give.
    """
    if not source.routes:
        return {}
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}


def _start_browser(settings: FetchSettings, place: dict[str, Any]) -> Any:
    import ray

    from steps.scrape.browser import Browser

    browser = ray.remote(Browser).options(**{"num_cpus": BROWSER_CPUS, **_ACTOR, **place}).remote(settings)
    try:
        ray.get(browser.check.remote())
    except BrowserMissingError as error:
        ray.kill(browser)
        raise BrowserMissingError(*error.args[:1]) from error
    return browser


def _close(browser: Any) -> None:
    import ray

    try:
        ray.get(browser.close.remote(), timeout=_CLOSE_S)
    except ray.exceptions.RayError as error:
        logger.warning("the browser did not close by itself: %s", error)
    ray.kill(browser)


def _result(ref: Any) -> ReadBatch | None:
    import ray
    from ray import exceptions

    lost = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.OutOfMemoryError,
    )
    try:
        found: ReadBatch = ray.get(ref)
    except lost as error:
        logger.warning("a batch was lost with its process: %s", type(error).__name__)
        return None
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, lost):
            logger.warning("a batch was lost with its process: %s", type(error.cause).__name__)
            return None
        raise
    return found
