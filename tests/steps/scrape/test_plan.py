from __future__ import annotations

from collections import Counter

from steps.scrape.pages import Page
from steps.scrape.plan import MAX_BATCHES_PER_FETCHER, MAX_BATCHES_PER_HOST, MAX_LOSSES, Batch, Plan
from steps.scrape.source import Source

SOURCE = Source(name="web", seeds=("http://a.com/",), sites=frozenset({"a.com"}), delay_s=0, exclude="^/private")


def page(path: str, host: str = "a.com", **values: object) -> Page:
    options = {"crawl": "c", "outcome": "changed", "status": 200, **values}
    return Page(url=f"http://{host}{path}", **options)  # type: ignore[arg-type]


def make(known: dict[str, Page] | None = None, **options: int) -> Plan:
    values = {"max_pages": 100, "batch_size": 10, "num_fetchers": 1, **options}
    plan = Plan(SOURCE, known or {}, **values)
    plan.begin()
    return plan


def urls(batches: list[Batch]) -> list[str]:
    return [request.url for batch in batches for request in batch.requests]


def drain(plan: Plan) -> list[str]:
    """Hands out everything, as if each page had answered."""
    seen: list[str] = []
    while batches := plan.next_batches():
        for batch in batches:
            plan.landed(batch)
            for request in batch.requests:
                seen.append(request.url)
                plan.done(Page(url=request.url, crawl="c", outcome="changed", status=200), ())
    return seen


def test_seeds_come_first_then_known_pages_then_new_ones() -> None:
    known = {each.url: each for each in (page("/known"), page("/"))}
    plan = make(known)
    (batch,) = plan.next_batches()
    assert urls([batch]) == ["http://a.com/", "http://a.com/known"]
    assert batch.requests[1].known == known["http://a.com/known"]
    plan.landed(batch)
    plan.done(page("/"), ["http://a.com/new", "http://a.com/known"])
    assert urls(plan.next_batches()) == ["http://a.com/new"]


def test_links_out_of_scope_are_not_followed() -> None:
    plan = make()
    drain(plan)
    plan.done(page("/"), ["http://b.com/", "http://a.com/private/x", "http://sub.a.com/ok"])
    assert urls(plan.next_batches()) == ["http://sub.a.com/ok"]


def test_no_more_pages_are_asked_for_than_allowed() -> None:
    plan = make(max_pages=7, batch_size=3)
    plan.done(page("/seen"), [f"http://a.com/{n}" for n in range(20)])
    assert len(drain(plan)) == 6
    assert plan.num_asked == 7
    assert plan.num_total == 7


def test_pages_that_were_never_asked_for_cost_nothing() -> None:
    plan = make(max_pages=2, batch_size=1)
    (batch,) = plan.next_batches()
    plan.landed(batch)
    plan.done(page("/", status=0, outcome="rejected", reason="robots"), [])
    assert plan.num_asked == 0


def test_pages_that_are_done_are_not_asked_for_again() -> None:
    plan = Plan(SOURCE, {"http://a.com/b": page("/b")}, max_pages=100, batch_size=10, num_fetchers=1)
    done = [page("/"), page("/b")]
    plan.skip(done)
    for each in done:
        plan.done(each, ["http://a.com/", "http://a.com/b", "http://a.com/c"])
    plan.begin()
    assert drain(plan) == ["http://a.com/c"]


def test_pages_that_are_gone_or_fail_again_and_again_are_asked_for_only_where_they_are_linked() -> None:
    known = {
        each.url: each
        for each in (
            page("/gone", outcome="removed", status=404),
            page("/bad", outcome="failed", fails=3),
            page("/shaky", outcome="failed", fails=2),
        )
    }
    assert drain(make(known)) == ["http://a.com/", "http://a.com/shaky"]


def test_a_host_has_few_batches_at_once_and_belongs_to_one_fetcher() -> None:
    source = Source(name="web", seeds=(), sites=frozenset(), delay_s=0)
    plan = Plan(source, {}, max_pages=1000, batch_size=2, num_fetchers=4)
    plan.done(page("/"), [f"http://h{n % 5}.example/{n}" for n in range(100)])
    batches = plan.next_batches()
    by_host: dict[str, set[int]] = {}
    for batch in batches:
        by_host.setdefault(batch.host, set()).add(batch.fetcher)
        assert {request.url.split("/")[2] for request in batch.requests} == {batch.host.removesuffix(":80")}
    assert all(len(fetchers) == 1 for fetchers in by_host.values())
    assert all(sum(batch.host == host for batch in batches) <= MAX_BATCHES_PER_HOST for host in by_host)


def test_pages_that_a_batch_did_not_begin_come_next_in_their_order() -> None:
    plan = make(batch_size=3)
    plan.done(page("/x"), [f"http://a.com/{n}" for n in range(6)])
    (first, _) = plan.next_batches()
    left = [request.url for request in first.requests[1:]]
    plan.landed(first, left)
    assert urls(plan.next_batches())[:2] == left


def test_a_lost_batch_comes_again_and_a_page_that_kills_is_given_up() -> None:
    plan = make(batch_size=2)
    plan.done(page("/x"), ["http://a.com/poison"])
    (batch,) = plan.next_batches()
    assert len(batch.requests) == 2
    for _ in range(MAX_LOSSES):
        assert plan.lost(batch) == ()
        batch, *others = plan.next_batches()
    assert len(batch.requests) == 1
    (poison,) = others
    plan.landed(batch)
    assert [request.url for request in plan.lost(poison)] == ["http://a.com/poison"]
    assert plan.next_batches() == []


def test_redirects_are_counted_along_the_chain() -> None:
    plan = make()
    drain(plan)
    plan.done(page("/", status=302, outcome="redirect"), ["http://a.com/1"])
    plan.done(page("/1", status=302, outcome="redirect"), ["http://a.com/2"])
    requests = [request for batch in plan.next_batches() for request in batch.requests]
    assert [(request.url[-1], request.num_redirects) for request in requests] == [("1", 1), ("2", 2)]


def test_each_page_of_many_hosts_is_asked_for_once_and_within_the_limits() -> None:
    hosts = [f"{number}.a.com" for number in range(100)]
    plan = make(max_pages=10_000, batch_size=2, num_fetchers=3)
    plan.done(page("/seen"), [f"http://{host}/{number}" for host in hosts for number in range(9)])
    in_flight = plan.next_batches()
    seen: list[str] = []
    while in_flight:
        assert max(Counter(batch.host for batch in in_flight).values()) <= MAX_BATCHES_PER_HOST
        assert max(Counter(batch.fetcher for batch in in_flight).values()) <= MAX_BATCHES_PER_FETCHER
        assert plan.num_total == 902
        batch = in_flight.pop(len(in_flight) // 2)
        # What comes after the first page is handed back.
        given, left = batch.requests[:1], [request.url for request in batch.requests[1:]]
        plan.landed(batch, left)
        for request in given:
            seen.append(request.url)
            plan.done(Page(url=request.url, crawl="c", outcome="changed", status=200), ())
        in_flight += plan.next_batches()
    assert len(seen) == len(set(seen)) == 901


def test_a_host_with_a_page_in_the_browser_starts_no_more_batches_than_others() -> None:
    plan = make(batch_size=1)
    plan.done(page("/seen"), [f"http://a.com/{number}" for number in range(9)])
    first, second = plan.next_batches()
    plan.landed(first)
    plan.render(first, {request.url for request in first.requests})
    assert plan.next_batches() == []
    plan.landed(second)
    assert len(plan.next_batches()) == 1
