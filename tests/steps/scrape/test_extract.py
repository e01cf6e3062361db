from __future__ import annotations

import random

import pytest

from steps.scrape.errors import PageRefusedError
from steps.scrape.extract import MAX_LINKS, Extracted, decode, extract
from steps.scrape.pydoc_site import DROP, VOLATILE

URL = "http://example.com/dir/page.html"
SENTENCES = (
    "The ferry leaves at noon and comes back when the wind allows it, which is seldom before the evening bell. " * 4
)


def read(html: str, **options: str) -> Extracted:
    return extract(html.encode(), url=URL, **options)


def test_an_article_gives_its_text_without_menus_and_scripts() -> None:
    found = read(
        "<html><head><title> The\n ferry </title><style>p {}</style></head><body><nav><a href='/'>Home</a> Menu"
        f"</nav><article><h1>The ferry</h1><p>{SENTENCES}</p></article><script>var hidden = 1;</script></body></html>"
    )
    assert found.title == "The ferry"
    assert "wind allows it" in found.text
    assert "Menu" not in found.text
    assert "hidden" not in found.text
    assert found.links == ("http://example.com/",)


def test_links_are_canonical_and_each_is_there_once() -> None:
    found = read(
        "<base href='/base/'><a href='a'>1</a><a href='a#x'>2</a><a href='#y'>3</a><a href='mailto:x@y.z'>4</a>"
        "<a href='https://other.example/?utm_source=q'>5</a><a href='b' rel='nofollow'>6</a><a>7</a>"
    )
    assert found.links == ("http://example.com/base/a", "https://other.example/")


def test_a_page_has_no_more_links_than_the_limit() -> None:
    assert len(read("".join(f"<a href='/{n}'>x</a>" for n in range(3000))).links) == MAX_LINKS


@pytest.mark.parametrize(
    ("html", "header", "may_index", "follows"),
    [
        ("<meta name=robots content='NOINDEX'>", "", False, True),
        ("<meta name=robots content='none'>", "", False, True),
        ("", "noindex", False, True),
        ("<meta name=robots content='nofollow'>", "", True, False),
        ("<meta name=robots content='all'>", "", True, True),
    ],
)
def test_robots_tags_are_heeded(html: str, header: str, may_index: bool, follows: bool) -> None:
    found = read(
        f"<html><head>{html}</head><body><p>{SENTENCES}</p><a href='/x'>x</a></body></html>", robots_tag=header
    )
    assert found.index is may_index
    assert bool(found.links) is follows


PYDOC = """<!DOCTYPE><html lang="en"><head><title>Pydoc: module demo</title></head><body>
<div style='float:left'>Python 3.11</div><div style='float:right'><a href="topics.html">Topics</a></div>
<div style="clear:both"><table class="heading"><tr><td class="title">&nbsp;<br><strong>demo</strong></td>
<td class="extra"><a href=".">index</a><br>/usr/lib/python3/demo.py</td></tr></table>
<table class="section"><tr><td>Functions</td></tr><tr><td>
<dl><dt>spawn(read=&lt;function _read at 0x7f74d59c7ec0&gt;)</dt>
<dd><span class="code">Starts&nbsp;a&nbsp;child<br>\n&nbsp;&nbsp;&nbsp;&nbsp;and&nbsp;waits.</span></dd></dl>
</td></tr></table>
<table class="section"><tr><td>Data</td></tr><tr><td>
__warningregistry__ = {'version': 6}</td></tr></table></div></body></html>"""


def test_a_page_of_tables_is_read_block_by_block() -> None:
    found = extract(PYDOC.encode(), url="http://pydoc.localhost/demo.html", drop=DROP, volatile=VOLATILE)
    assert found.text == "demo\n\nFunctions\n\nspawn(read=<function _read>)\nStarts a child\n    and waits."
    assert found.links == ("http://pydoc.localhost/topics.html", "http://pydoc.localhost/")


def test_preformatted_text_keeps_its_lines() -> None:
    found = read("<table><tr><td><pre>def f():\n    return 1</pre></td></tr></table>")
    assert found.text == "def f():\n    return 1"


def test_plain_text_is_taken_as_it_is() -> None:
    found = extract(b"one\r\ntwo\n\n\n\nthree", url=URL, content_type="text/plain")
    assert (found.text, found.links) == ("one\ntwo\n\nthree", ())


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("grüße".encode(), "text/html", "grüße"),
        ("grüße".encode("latin-1"), "text/html; charset=iso-8859-1", "grüße"),
        ("<meta charset='cp1251'>привет".encode("cp1251"), "text/html", "привет"),
        ("grüße".encode("cp1252"), "text/html", "grüße"),
        ("grüße".encode(), "text/html; charset=no-such-thing", "grüße"),
        ("\ufeffgrüße".encode(), "text/html; charset=latin-1", "grüße"),
        ("grüße".encode("utf-16"), "text/html", "grüße"),
    ],
)
def test_the_encoding_is_found(body: bytes, content_type: str, expected: str) -> None:
    assert decode(body, url=URL, content_type=content_type).endswith(expected)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_no_text_are_refused(seed: int) -> None:
    with pytest.raises(PageRefusedError) as refused:
        extract(b"<html><p>" + random.Random(seed).randbytes(4000), url=URL)
    assert refused.value.reason == "bad_encoding"


@pytest.mark.parametrize(
    "html", ["", "   ", "<!-- nothing -->", "<html></html>", "<p>" * 5000, "<?xml version='1.0'?>", "<br/>"]
)
def test_odd_pages_give_no_text_and_no_error(html: str) -> None:
    assert read(html).text == ""


def test_a_page_nested_without_end_gives_what_is_above_and_no_error() -> None:
    html = "<table><tr><td>on top" + "<div>" * 200 + "deep down" + "<div>" * 50_000 + "too deep" + "</div>" * 50_200
    assert read(html).text == "on top\ndeep down"


def test_a_page_that_is_script_needs_a_browser() -> None:
    shell = "<html><body><div id='root'></div><script src='/app.js'></script></body></html>"
    assert read(shell).needs_script
    assert read("<html><body><p>Hi</p><script>" + "x();" * 500 + "</script></body></html>").needs_script
    assert not read(
        f"<html><body><div id='root'><p>{SENTENCES}</p></div><script src='/app.js'></script></body></html>"
    ).needs_script
    assert not read("<html><body><p>Short and static.</p></body></html>").needs_script
