from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.scrape.frontier import CrawlLog, FrontierFold, batch_documents, batch_pages, open_frontier, page_row
from steps.scrape.pages import Page
from workflows.log import BlobRef, Fenced, open_store

REF = BlobRef("d" * 64, 10, "application/vnd.apache.parquet")


def page(name: str, **values: object) -> Page:
    return Page(url=f"http://example.com/{name}", crawl="c1", outcome="changed", status=200, **values)  # type: ignore[arg-type]


def attempt(tmp_path: Path, number: int = 1, token: str = "c1") -> CrawlLog:
    return CrawlLog(open_frontier(open_store(f"file://{tmp_path}"), "web"), token, (1, number))


def test_a_batch_is_known_to_every_later_reader(tmp_path: Path) -> None:
    first = attempt(tmp_path)
    first.begin()
    first.record_batch([page("a", etag='"1"', links=("http://example.com/b",)), page("b", links_in=REF)], REF)
    state = attempt(tmp_path).log.refresh()
    told = {"told_at": 1, "document_in": REF}
    assert state.pages["http://example.com/a"] == page("a", etag='"1"', links=("http://example.com/b",), **told)
    assert state.pages["http://example.com/b"].links_in == REF


def test_a_crawl_that_goes_on_finds_its_batches_of_all_attempts(tmp_path: Path) -> None:
    other = attempt(tmp_path, token="other")
    other.begin()
    other.record_batch([page("x")], None)
    for number, name in ((1, "a"), (2, "b")):
        crawl = attempt(tmp_path, number)
        crawl.begin()
        crawl.record_batch([page(name)], REF)
    found = list(attempt(tmp_path, 3).batches())
    assert [[row.url[-1] for row in batch_pages(record)] for record in found] == [["a"], ["b"]]
    assert [batch_documents(record) for record in found] == [REF, REF]


def test_an_older_attempt_is_refused_once_a_newer_one_has_begun(tmp_path: Path) -> None:
    zombie = attempt(tmp_path, 1)
    zombie.begin()
    attempt(tmp_path, 2).begin()
    with pytest.raises(Fenced):
        zombie.record_batch([page("a")], REF)
    with pytest.raises(Fenced):
        zombie.finish([], [], 0)
    assert list(attempt(tmp_path, 3).batches()) == []


def test_a_finished_crawl_stays_finished(tmp_path: Path) -> None:
    crawl = attempt(tmp_path)
    crawl.begin()
    assert not crawl.is_finished()
    crawl.finish([REF], ["http://example.com/gone"], 7)
    assert attempt(tmp_path, 2).delivered_again() == ([REF], ["http://example.com/gone"], 7)
    assert attempt(tmp_path, 2).is_finished()
    assert not attempt(tmp_path, 1, token="c2").is_finished()


def test_an_abandoned_crawl_begins_anew_and_keeps_what_is_known(tmp_path: Path) -> None:
    crawl = attempt(tmp_path)
    crawl.begin()
    crawl.record_batch([page("a")], None)
    crawl.abandon("nothing there")
    again = attempt(tmp_path, 2)
    assert list(again.batches()) == []
    assert "http://example.com/a" in again.log.state.pages


def test_the_folded_state_survives_a_snapshot(tmp_path: Path) -> None:
    crawl = attempt(tmp_path)
    crawl.begin()
    crawl.record_batch(
        [page("a", links=("http://example.com/b",), fails=1), page("b", links_in=REF, rendered=True)], REF
    )
    fold = FrontierFold()
    state = crawl.log.state
    assert fold.load(json.loads(json.dumps(fold.dump(state)))) == state


def test_a_row_leaves_out_what_is_empty() -> None:
    assert page_row(page("a")) == {"url": "http://example.com/a", "outcome": "changed", "status": 200}
