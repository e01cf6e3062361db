from __future__ import annotations

import pytest

from steps.scrape.robots import MAX_ROBOTS_BYTES, read_rules

URL = "http://example.com/robots.txt"


def test_the_group_of_our_name_wins_over_the_star() -> None:
    rules = read_rules(URL, 200, b"User-agent: *\nDisallow: /\n\nUser-agent: everloop\nDisallow: /private\n")
    assert rules.allows("http://example.com/a", "Everloop")
    assert not rules.allows("http://example.com/private/a", "Everloop")
    assert not rules.allows("http://example.com/a", "Other")


def test_the_longest_match_wins() -> None:
    rules = read_rules(URL, 200, b"User-agent: *\nDisallow: /a\nAllow: /a/b\n")
    assert not rules.allows("http://example.com/a/c", "Everloop")
    assert rules.allows("http://example.com/a/b/c", "Everloop")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_file_that_is_not_there_allows_all(status: int) -> None:
    assert read_rules(URL, status, b"").allows("http://example.com/a", "Everloop")


@pytest.mark.parametrize("status", [0, 429, 500, 503])
def test_a_file_that_cannot_be_had_forbids_all(status: int) -> None:
    rules = read_rules(URL, status, b"", "no route")
    assert not rules.allows("http://example.com/a", "Everloop")
    assert not rules.reachable


def test_the_longest_pause_asked_for_counts() -> None:
    rules = read_rules(URL, 200, b"User-agent: *\nCrawl-delay: 2\nRequest-rate: 1/5\n")
    assert rules.delay_s("Everloop") == 5
    assert read_rules(URL, 200, b"").delay_s("Everloop") == 0


def test_what_is_beyond_the_limit_is_not_read() -> None:
    body = b"User-agent: *\n" + b"#" * MAX_ROBOTS_BYTES + b"\nDisallow: /\n"
    assert read_rules(URL, 200, body).allows("http://example.com/a", "Everloop")


def test_garbage_allows_all() -> None:
    assert read_rules(URL, 200, bytes(range(256)) * 4).allows("http://example.com/a", "Everloop")
