"""What the pages are written in: queries, panels, pages, and PromQL that returns."""

from __future__ import annotations

from dataclasses import dataclass

HEIGHT, WIDTH = 8, 8


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and how a series of its answer is called."""

    legend: str
    expr: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: lines over time, stacked areas, or the last value in large."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "lines"
    width: int = WIDTH


@dataclass(frozen=True, slots=True)
class Page:
    """One dashboard: rows of panels under their headings."""

    uid: str
    title: str
    text: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def panel(
    title: str, text: str, unit: str, *queries: tuple[str, str], kind: str = "lines", width: int = WIDTH
) -> Panel:
    """A panel of (legend, PromQL) pairs."""
    return Panel(title, text, unit, tuple(Query(*query) for query in queries), kind, width)


ALIAS = 'alias=~"$alias"'
OK = f'{ALIAS}, outcome="ok"'
CLIENTS = f'{ALIAS}, variant!="shadow"'
RATE = "$__rate_interval"


def rate(metric: str, by: str, labels: str = ALIAS) -> str:
    """A second, by labels."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[{RATE}]))"


def share(of: str, by: str) -> str:
    """A rate as a share of all answers with the same labels."""
    return f"{of} / on ({by}) group_left {rate('everloop_requests_total', by)}"


def quantile(of: str, metric: str, by: str) -> str:
    """A quantile of a histogram, by labels."""
    return f"histogram_quantile({of}, sum by ({by}, le) (rate({metric}_bucket{{{ALIAS}}}[{RATE}])))"


ANSWERED = share(rate("everloop_requests_total", "variant", OK), "variant")
