"""Names of pages: one canonical form, so that a page is one page however it is linked."""

from __future__ import annotations

import hashlib
from urllib.parse import urljoin

from yarl import URL


def canonical_url(href: str, base: str = "") -> str | None:
    """Gives the canonical form of a link, or None when it leads to no web page.

    Relative links are resolved, dot segments and the fragment dropped, trackers removed, the query sorted, host and
    scheme in lower case (courlan).

    Args:
        href: The link as written.
        base: URL of the page that holds it.
    """
    from courlan import normalize_url

    try:
        parsed = URL(urljoin(base, href.strip())).with_fragment(None)
        if parsed.scheme not in ("http", "https") or not parsed.raw_host:
            return None
        if not parsed.raw_path or parsed.raw_path == "/":
            parsed = parsed.with_path("/", keep_query=True)
        return str(normalize_url(str(parsed), strict=False, trailing_slash=True)) or None
    except ValueError:
        return None


def host_of(url: str) -> str:
    """Gives host and port, the unit of politeness."""
    parsed = URL(url)
    return f"{parsed.raw_host}:{parsed.port}"


def site_of(url: str) -> str:
    """Gives the registrable domain (`example.co.uk`), or host and port where there is none, as with `localhost`."""
    from courlan import extract_domain

    return extract_domain(url) or host_of(url)


def doc_id(url: str) -> str:
    """Gives the identity of a document: the SHA-256 of its canonical URL."""
    return hashlib.sha256(url.encode()).hexdigest()
