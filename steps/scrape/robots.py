"""robots.txt as RFC 9309 wants it, read with protego.

A file that is not there (4xx) allows all; one that cannot be had (5xx, 429, no connection) forbids all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_ROBOTS_BYTES = 512 * 1024
"""RFC 9309 section 2.5 asks for at least 500 KiB; what is beyond is not read."""

MAX_ROBOTS_REDIRECTS = 5
"""RFC 9309 section 2.3.1.2."""


@dataclass(frozen=True, slots=True)
class RobotsRules:
    """What a host allows.

    Attributes:
        rule: Where the rules come from, for messages.
        reachable: False when the file could not be had and all is forbidden for that reason.
    """

    rule: str
    reachable: bool
    _parsed: Any

    def allows(self, url: str, user_agent: str) -> bool:
        """Whether the page may be asked for."""
        return bool(self._parsed is not None and self._parsed.can_fetch(url, user_agent))

    def delay_s(self, user_agent: str) -> float:
        """The longest pause that the host asks for between two requests, by Crawl-delay or Request-rate."""
        if self._parsed is None:
            return 0.0
        rate = self._parsed.request_rate(user_agent)
        by_rate = rate.seconds / rate.requests if rate is not None and rate.requests else 0.0
        return max(float(self._parsed.crawl_delay(user_agent) or 0.0), float(by_rate))


def read_rules(url: str, status: int, body: bytes, detail: str = "") -> RobotsRules:
    """Reads the rules from what the host answered.

    Args:
        url: URL of the file.
        status: HTTP status; 0 when there was no answer.
        body: The file.
        detail: Why there was no answer.
    """
    from protego import Protego

    if 200 <= status < 300:
        text = body[:MAX_ROBOTS_BYTES].decode("utf-8", errors="replace").removeprefix("\ufeff")
        return RobotsRules(rule=url, reachable=True, _parsed=Protego.parse(text))
    if 400 <= status < 500 and status != 429:
        return RobotsRules(rule=f"{url} is not there ({status})", reachable=True, _parsed=Protego.parse(""))
    why = f"answered {status}" if status else detail
    return RobotsRules(rule=f"{url} cannot be had ({why}), so all is forbidden", reachable=False, _parsed=None)
