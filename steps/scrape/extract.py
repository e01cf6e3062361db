"""From a page's bytes to its text, title and links.

trafilatura finds the main text of articles. Pages that are laid out in tables (pydoc and other generated references)
come out of it as rows of bars with much of the text lost, so those are read plainly, block by block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steps.scrape.errors import PageRefusedError
from steps.scrape.urls import canonical_url

MAX_LINKS = 1000
"""Links of one page that are followed; more is a trap or a sitemap."""

_SHORT_CHARS = 200
"""Below this trafilatura's faster mode is not believed (its own fallback threshold is 250)."""

_TABLE_SHARE = 0.25
"""Share of a page's text in tables from which on it counts as laid out in tables."""

_SCRIPT_HEAVY_SHARE = 0.5

_NOT_TEXT = frozenset(
    {"script", "style", "noscript", "template", "head", "svg", "form", "nav", "header", "footer", "aside"}
)
# fmt: off
_BLOCKS = frozenset((
    "address", "article", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "pre", "section",
    "summary", "table", "tbody", "td", "th", "thead", "tr", "ul",
))
# fmt: on
_PARAGRAPHS = frozenset(
    ["article", "blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table", "ul"]
)

_APP_ROOT = "//*[@id='root' or @id='app' or @id='__next' or @id='__nuxt' or @ng-app or @data-reactroot]"

_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_SPACE = re.compile("[ \t\n\r\f]+")  # not the no-break space: pages indent code with it
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What a page says.

    Attributes:
        title: Its title, perhaps empty.
        text: Its main text, perhaps empty.
        links: Where it leads: canonical URLs, each once, in page order.
        index: Whether the page allows that its text is used (robots meta tag and X-Robots-Tag without `noindex`).
        needs_script: Whether it is mostly script, with little text.
    """

    title: str
    text: str
    links: tuple[str, ...]
    index: bool
    needs_script: bool


def extract(
    body: bytes,
    *,
    url: str,
    content_type: str = "text/html",
    robots_tag: str = "",
    drop: Sequence[str] = (),
    volatile: str = "",
) -> Extracted:
    """Reads a page.

    Args:
        body: The page.
        url: Its URL, to resolve links.
        content_type: As the server declared it.
        robots_tag: X-Robots-Tag.
        drop: XPath of parts that are not text of the page; their links are followed all the same.
        volatile: Pattern of text to leave out.

    Raises:
        PageRefusedError: `bad_encoding`: the bytes are no text.
    """
    html = decode(body, url=url, content_type=content_type)
    if content_type.partition(";")[0].strip().lower() == "text/plain":
        return Extracted(
            title="", text=_clean(html, volatile), links=(), index=_may_index(robots_tag), needs_script=False
        )
    tree = _parse(html)
    if tree is None:
        return Extracted(title="", text="", links=(), index=True, needs_script=False)
    robots = ",".join(
        [robots_tag, *(node.get("content") or "" for node in tree.iterfind(".//meta") if _is_robots(node))]
    )
    title = " ".join((tree.findtext(".//title") or "").split())
    links = () if "nofollow" in robots.lower() else tuple(_links(tree, url))
    needs_script = _is_script_heavy(tree, html)
    for path in drop:
        for node in tree.xpath(path):
            node.drop_tree()
    text = _clean(_main_text(tree), volatile)
    return Extracted(
        title=title,
        text=text,
        links=links,
        index=_may_index(robots),
        needs_script=needs_script and len(text) < _SHORT_CHARS,
    )


def decode(body: bytes, *, url: str, content_type: str) -> str:
    """Finds the characters of a page: byte-order mark, declaration of the server, of the page, UTF-8, windows-1252.

    Raises:
        PageRefusedError: `bad_encoding`: none fits, or the result is full of control characters.
    """
    declared = re.search(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]+)", content_type)
    meta = _CHARSET.search(body[:2048])
    names = [
        "utf-8-sig" if body.startswith(b"\xef\xbb\xbf") else "",
        "utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "",
    ]
    names += [declared[1] if declared else "", meta[1].decode("ascii") if meta else "", "utf-8", "cp1252"]
    for name in filter(None, names):
        try:
            text = body.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
        if len(_CONTROL.findall(text)) <= len(text) / 100:
            return text
    raise PageRefusedError(url, "bad_encoding", f"its {len(body)} bytes are no text in any likely encoding")


def plain_text(tree: Any) -> str:
    """Reads all text of a tree, a line per block, an empty line between paragraphs."""
    pieces: list[str] = []
    _collect(tree, pieces)
    return "".join(pieces)


def _parse(html: str) -> Any:
    from lxml import etree  # type: ignore[import-untyped]  # lxml has no types
    from lxml.html import HTMLParser, document_fromstring  # type: ignore[import-untyped]

    try:
        # Bytes, because lxml refuses text with an encoding declaration; no comments, no network, no huge trees.
        return document_fromstring(
            html.encode(), parser=HTMLParser(encoding="utf-8", remove_comments=True, no_network=True)
        )
    except (etree.ParserError, ValueError):
        return None


def _main_text(tree: Any) -> str:
    plain = plain_text(tree)
    in_tables = sum(len(" ".join(table.itertext())) for table in tree.iterfind(".//table") if not _is_nested(table))
    if _TABLE_SHARE * len(plain) < in_tables:
        return plain
    import trafilatura

    for fast in (True, False):
        found = trafilatura.extract(tree, fast=fast, include_comments=False, include_formatting=False) or ""
        if len(found) >= _SHORT_CHARS:
            return str(found)
    return str(found) if len(found) >= len(plain) / 4 else plain


def _is_nested(table: Any) -> bool:
    return any(True for _ in table.iterancestors("table"))


def _collect(node: Any, pieces: list[str]) -> None:
    """Walks without recursion: a page may be nested thousands deep."""
    stack: list[tuple[Any, bool, bool]] = [(node, False, False)]
    while stack:
        element, leaving, keep_space = stack.pop()
        tag = element.tag if isinstance(element.tag, str) else ""
        gap = "\n\n" if tag in _PARAGRAPHS else "\n" if tag in _BLOCKS else ""
        if leaving:
            if tag != "br":
                _gap(pieces, gap)
            if element is not node:
                _add(pieces, element.tail, keep_space)
        elif not tag or tag in _NOT_TEXT:
            _add(pieces, element.tail, keep_space)
        else:
            if tag == "br":
                pieces.append("\n")
            else:
                _gap(pieces, gap)
            inside = keep_space or tag in ("pre", "textarea")
            _add(pieces, element.text, inside)
            stack.append((element, True, keep_space))
            stack.extend((child, False, inside) for child in reversed(element))


def _gap(pieces: list[str], gap: str) -> None:
    """Begins a new line, or a new paragraph, unless the text is at one already."""
    if gap and pieces and not pieces[-1].endswith(gap):
        pieces.append("\n" if len(gap) == 2 and pieces[-1].endswith("\n") else gap)


def _add(pieces: list[str], text: str | None, keep_space: bool) -> None:
    """Adds text as a browser shows it: runs of white space are one space, none at the beginning of a line."""
    if not text:
        return
    if not keep_space:
        text = _SPACE.sub(" ", text)
        if not pieces or pieces[-1].endswith(("\n", " ")):
            text = text.lstrip(" ")
    if text:
        pieces.append(text)


def _clean(text: str, volatile: str) -> str:
    """One line per line, spaces kept at the beginning (code), no more than one empty line."""
    text = text.replace("\xa0", " ").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line.rstrip() for line in _CONTROL.sub("", text).split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return re.sub(volatile, "", text).strip() if volatile else text


def _links(tree: Any, url: str) -> Iterator[str]:
    base_node = tree.find(".//base[@href]")
    base = canonical_url(base_node.get("href"), url) or url if base_node is not None else url
    seen = {url}
    for anchor in tree.iterfind(".//a[@href]"):
        href = anchor.get("href")
        if href.startswith("#") or "nofollow" in (anchor.get("rel") or "").lower():
            continue
        link = canonical_url(href, base)
        if link is not None and link not in seen:
            seen.add(link)
            yield link
            if len(seen) > MAX_LINKS:
                return


def _is_robots(node: Any) -> bool:
    return (node.get("name") or "").strip().lower() == "robots"


def _may_index(robots: str) -> bool:
    return not re.search(r"\b(noindex|none)\b", robots.lower())


def _is_script_heavy(tree: Any, html: str) -> bool:
    scripts = sum(len(script.text or "") for script in tree.iterfind(".//script"))
    outside = any(script.get("src") for script in tree.iterfind(".//script"))
    return (bool(tree.xpath(_APP_ROOT)) and (scripts > 0 or outside)) or scripts > _SCRIPT_HEAVY_SHARE * len(html)
