"""What can go wrong in a crawl.

    ScrapeError
    +-- CrawlFailedError            the crawl as a whole has no result; a resumed run crawls again
    |   +-- SeedUnreachableError    no seed answered
    |   +-- RobotsForbidAllError    robots.txt forbids every seed
    |   +-- SeedRefusedError        no seed may be asked for: its address is private, its scheme odd, ...
    |   +-- EmptyCrawlError         pages answered, but none has ever given a document
    |   +-- SourceNotStartedError   the step's own local server did not come up
    |   +-- BrowserMissingError     a browser is asked for and there is none
    +-- PageRefusedError            one page is not taken; the crawl goes on and counts the reason
        +-- AddressRefusedError     the address check said no
        +-- HostClosedError         the host asked for a long pause, or fails again and again

Arguments are the fields and nothing else, so that every error survives pickling: Ray carries them between processes.
"""

from __future__ import annotations

from collections.abc import Mapping


class ScrapeError(Exception):
    """Base of all errors of this step."""


class CrawlFailedError(ScrapeError):
    """The crawl has no result. Nothing that was recorded is lost."""


class SeedUnreachableError(CrawlFailedError):
    """No seed answered."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"seed {self.url!r} cannot be reached ({self.reason}), nor can any other seed"


class RobotsForbidAllError(CrawlFailedError):
    """robots.txt forbids every seed."""

    def __init__(self, url: str, rule: str) -> None:
        super().__init__(url, rule)
        self.url = url
        self.rule = rule

    def __str__(self) -> str:
        return f"robots.txt forbids seed {self.url!r} ({self.rule}), and every other seed is refused too"


class SeedRefusedError(CrawlFailedError):
    """No seed may be asked for."""

    def __init__(self, url: str, rule: str) -> None:
        super().__init__(url, rule)
        self.url = url
        self.rule = rule

    def __str__(self) -> str:
        return f"seed {self.url!r} is refused: {self.rule} (scrape.allow_private allows loopback and private networks)"


class EmptyCrawlError(CrawlFailedError):
    """Pages answered, but none of this source has ever given a document."""

    def __init__(self, source: str, url: str, rejected: Mapping[str, int]) -> None:
        super().__init__(source, url, dict(rejected))
        self.source = source
        self.url = url
        self.rejected = dict(rejected)

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.rejected.items())) or "no page"
        return f"crawl of {self.source!r} from {self.url!r} is empty: no document has ever come from it ({reasons})"


class SourceNotStartedError(CrawlFailedError):
    """The step's own local server did not come up."""

    def __init__(self, source: str, detail: str) -> None:
        super().__init__(source, detail)
        self.source = source
        self.detail = detail

    def __str__(self) -> str:
        return f"the local server of source {self.source!r} did not start: {self.detail}"


class BrowserMissingError(CrawlFailedError):
    """`scrape.browser` asks for a browser and there is none."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return (
            f"scrape.browser='auto' needs a browser: {self.detail}; install the extra `browser`"
            " (uv sync --extra browser) and Chromium with its driver (apt-get install chromium chromium-driver)"
        )


class PageRefusedError(ScrapeError):
    """One page is not taken.

    Args:
        url: The page.
        reason: Short name under which it is counted, for example `too_large`.
        detail: A sentence for people.
    """

    def __init__(self, url: str, reason: str, detail: str) -> None:
        super().__init__(url, reason, detail)
        self.url = url
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.url!r} is not taken ({self.reason}): {self.detail}"


class AddressRefusedError(PageRefusedError):
    """The address check said no: `bad_url` for what is no plain web address, `private_address` for where it leads."""


class HostClosedError(PageRefusedError):
    """The host asked for a long pause (`host_paused`) or fails again and again (`host_down`)."""
