from __future__ import annotations

import pytest

from steps.scrape.urls import canonical_url, doc_id, host_of, site_of


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("b.html#part", "http://example.com/a/", "http://example.com/a/b.html"),
        (".", "http://example.com/a.html", "http://example.com/"),
        ("", "http://example.com", "http://example.com/"),
        ("HTTP://Example.COM:80/x/../y", "", "http://example.com/y"),
        ("https://example.com:443/", "", "https://example.com/"),
        ("/p?b=2&a=1&utm_source=mail", "http://example.com/", "http://example.com/p?a=1&b=2"),
        ("topic?key=ASSERTION", "http://pydoc.localhost/topics.html", "http://pydoc.localhost/topic?key=ASSERTION"),
        ("//other.example/x", "https://example.com/", "https://other.example/x"),
    ],
)
def test_a_link_has_one_canonical_form(href: str, base: str, expected: str) -> None:
    assert canonical_url(href, base) == expected
    assert canonical_url(expected) == expected


@pytest.mark.parametrize(
    "href", ["mailto:a@example.com", "javascript:go()", "file:/etc/passwd", "http://[::1", "data:,x"]
)
def test_what_leads_to_no_web_page_is_none(href: str) -> None:
    assert canonical_url(href, "http://example.com/") is None


def test_hosts_and_sites() -> None:
    assert host_of("https://docs.example.co.uk/a") == "docs.example.co.uk:443"
    assert site_of("https://docs.example.co.uk/a") == site_of("http://example.co.uk/")
    assert site_of("http://127.0.0.1:8080/a") == "127.0.0.1:8080"


def test_the_identity_of_a_document_is_the_digest_of_its_url() -> None:
    assert doc_id("http://example.com/") == "2a1b402420ef46577471cdc7409b0fa2c6a204db316e59ade2d805435489a067"
    assert doc_id("http://example.com/a") != doc_id("http://example.com/b")
