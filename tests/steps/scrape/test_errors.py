from __future__ import annotations

import pickle

import pytest

from steps.scrape import errors

EXAMPLES = [
    errors.SeedUnreachableError("http://a/", "unreachable: no route"),
    errors.RobotsForbidAllError("http://a/", "http://a/robots.txt"),
    errors.SeedRefusedError("http://10.0.0.1/", "10.0.0.1 is a loopback or private address"),
    errors.EmptyCrawlError("web", "http://a/", {"no_text": 2}),
    errors.SourceNotStartedError("pydoc", "it ended with 1"),
    errors.BrowserMissingError("Chromium is not there"),
    errors.AddressRefusedError("http://a/", "bad_url", "has no host"),
    errors.HostClosedError("http://a/", "host_down", "failed 5 times in a row"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: errors.ScrapeError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize("error", EXAMPLES[:4], ids=lambda error: type(error).__name__)
def test_a_failed_crawl_names_the_url_and_the_rule(error: errors.CrawlFailedError) -> None:
    assert isinstance(error, errors.CrawlFailedError)
    assert error.args[0] in str(error)
    assert "http://" in str(error)
