"""A source: where a crawl begins, how far it goes, and what its pages look like."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from steps.scrape.config import ScrapeConfig
from steps.scrape.urls import canonical_url, site_of

WEB_DELAY_S = 1.0
"""Pause between two requests to a host on the web, if it asks for no longer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A place that documents come from.

    Attributes:
        name: Names the frontier.
        seeds: Canonical URLs to begin with.
        sites: Sites within which links are followed; none: any.
        delay_s: Least pause between two requests to a host.
        routes: Names of servers that the step runs itself: name to IP and port. Their pages keep the same URLs whatever
            the port is.
        exclude: Pattern of paths (with query) that are not asked for.
        drop: XPath of the parts of its pages that are not text.
        volatile: Pattern of text that differs from one start of the server to the next.
    """

    name: str
    seeds: tuple[str, ...]
    sites: frozenset[str]
    delay_s: float
    routes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    exclude: str = ""
    drop: tuple[str, ...] = ()
    volatile: str = ""

    def covers(self, url: str) -> bool:
        """Whether a link is followed."""
        if self.sites and site_of(url) not in self.sites:
            return False
        return not (self.exclude and re.search(self.exclude, URL(url).path_qs))


def source_name(config: ScrapeConfig) -> str:
    """Names the frontier of a source: that of the config, or made from what it crawls."""
    if config.name or config.source != "web":
        return config.name or config.source
    seeds = sorted(canonical_url(seed) or seed for seed in config.seeds)
    host = re.sub(r"[^a-z0-9.-]", "-", (URL(seeds[0]).host or "web").lower())[:60].strip(".-") or "web"
    return f"{host}-{hashlib.sha256(repr(seeds).encode()).hexdigest()[:8]}"


@contextmanager
def open_source(config: ScrapeConfig, scratch: Path) -> Iterator[Source]:
    """Opens the source that the config names; its own server, if it has one, runs until the block ends.

    Raises:
        SourceNotStartedError: The server did not come up.
    """
    match config.source:
        case "pydoc":
            from steps.scrape.pydoc_site import serve_pydoc

            with serve_pydoc(config, scratch) as source:
                yield source
        case "bundled":
            from steps.scrape.bundled_site import serve_bundled

            with serve_bundled(config) as source:
                yield source
        case "web":
            yield _web(config)


def _web(config: ScrapeConfig) -> Source:
    seeds = tuple(dict.fromkeys(canonical_url(seed) or seed for seed in config.seeds))
    return Source(
        name=source_name(config),
        seeds=seeds,
        sites=frozenset(site_of(seed) for seed in seeds) if config.same_site else frozenset(),
        delay_s=WEB_DELAY_S if config.delay_s is None else config.delay_s,
    )
