"""Draws the dashboards as pictures, from what a Prometheus answers to their queries:

    python charts/everloop/dashboards/draw.py http://127.0.0.1:9090 docs/dashboards [--minutes 30]

For documents, and to look at a dashboard where no Grafana is. It shows what Grafana would: the same panels, queries,
units and legends.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
POINTS = 120
_COLUMNS = 24
_UNITS = {"s": " s", "reqps": "/s", "percentunit": " %", "bytes": " MB", "short": ""}
_SCALES = {"percentunit": 100.0, "bytes": 1 / 2**20}


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a panel: its name, and (Unix seconds, value) in order."""

    name: str
    points: Sequence[tuple[float, float]]


def panels(dashboard: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The panels of a dashboard, headings included, from top to bottom."""
    return sorted(dashboard["panels"], key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))


def concrete(query: str, *, alias: str, rate_interval_s: int) -> str:
    """A query with Grafana's variables filled in."""
    return query.replace("$__rate_interval", f"{rate_interval_s}s").replace("$alias", alias)


def asked(prometheus: str, query: str, *, start: float, end: float) -> list[tuple[Mapping[str, str], list[Any]]]:
    """Labels and values of each series that a range query gives.

    Raises:
        OSError: Prometheus does not answer, or refuses the query.
    """
    step = max((end - start) / POINTS, 0.1)
    parameters = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": f"{step:.3f}"})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{parameters}", timeout=30) as answer:  # noqa: S310
        return [(series["metric"], series["values"]) for series in json.load(answer)["data"]["result"]]


def lines(panel: Mapping[str, Any], prometheus: str, *, start: float, end: float, rate_interval_s: int) -> list[Line]:
    """What a panel shows."""
    scale = _SCALES.get(panel["fieldConfig"]["defaults"]["unit"], 1.0)
    found = []
    for target in panel["targets"]:
        query = concrete(target["expr"], alias=".*", rate_interval_s=rate_interval_s)
        for labels, values in asked(prometheus, query, start=start, end=end):
            name = re.sub(r"\{\{(\w+)\}\}", lambda match, of=labels: str(of.get(match[1], "")), target["legendFormat"])
            points = [(float(at), float(value) * scale) for at, value in values]
            found.append(Line(name.strip(), [point for point in points if point[1] == point[1]]))
    return found


def draw(
    dashboard: Mapping[str, Any], prometheus: str, target: Path, *, start: float, end: float, rate_interval_s: int
) -> None:
    """Writes one dashboard as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "everloop"
    from matplotlib import pyplot

    shown = panels(dashboard)
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in shown)
    figure = pyplot.figure(figsize=(15, height * 0.3))
    figure.suptitle(dashboard["title"], x=0.01, y=0.995, ha="left", va="top", fontsize=13)
    margin = 0.7 / (height * 0.3)
    for panel in shown:
        place = panel["gridPos"]
        top = 1 - margin - place["y"] / height * (1 - margin)
        if panel["type"] == "row":
            figure.text(
                0.01, top - 0.1 / (height * 0.3), panel["title"], va="top", fontsize=10, weight="bold", color="#555555"
            )
            continue
        tall = place["h"] / height * (1 - margin)
        box = (place["x"] / _COLUMNS + 0.035, top - tall + tall * 0.27, place["w"] / _COLUMNS - 0.05, tall * 0.56)
        found = lines(panel, prometheus, start=start, end=end, rate_interval_s=rate_interval_s)
        _draw_panel(figure.add_axes(box), panel, [line for line in found if line.points], start, end)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)


def _draw_panel(axes: Any, panel: Mapping[str, Any], found: Sequence[Line], start: float, end: float) -> None:
    from matplotlib import dates

    unit = _UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    axes.set_title(panel["title"], loc="left", fontsize=8.5)
    if not found:
        axes.text(0.5, 0.5, "No data", ha="center", va="center", transform=axes.transAxes, color="#888888")
        axes.set_axis_off()
        return
    if panel["type"] == "stat":
        text = "\n".join(f"{line.points[-1][1]:.3g}{unit}" for line in found)
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=22, color="#3871dc")
        axes.set_axis_off()
        return
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    if custom.get("stacking", {}).get("mode") == "normal":
        moments = sorted({at for line in found for at, _ in line.points})
        values = [dict(line.points) for line in found]
        stacked = [[value.get(at, 0.0) for at in moments] for value in values]
        axes.stackplot(_times(moments), stacked, labels=[line.name for line in found], alpha=0.75, linewidth=0.5)
    else:
        for line in found:
            axes.plot(
                _times([at for at, _ in line.points]), [value for _, value in line.points], label=line.name, linewidth=1
            )
    axes.set_xlim(*_times([start, end]))
    highest = max(value for line in found for _, value in line.points)
    axes.set_ylim(bottom=0.0, top=None if highest > 0 else 1.0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}{unit}")
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(labelsize=6.5)
    axes.grid(alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=6, ncols=4, loc="upper left", bbox_to_anchor=(-0.02, -0.14), frameon=False, borderpad=0)


def _times(moments: Sequence[float]) -> list[datetime]:
    return [datetime.fromtimestamp(at, UTC) for at in moments]


def main(argv: Sequence[str] | None = None) -> int:
    """Draws all dashboards beside this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0].rstrip(":"))
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back (default: %(default)s)")
    parser.add_argument("--rate-interval-s", type=int, default=60, help="four scrapes or more (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end = time.time()
    for path in sorted(HERE.glob("*.json")):
        target = arguments.folder / f"{path.stem}.svg"
        draw(
            json.loads(path.read_text()),
            arguments.prometheus.rstrip("/"),
            target,
            start=end - arguments.minutes * 60,
            end=end,
            rate_interval_s=arguments.rate_interval_s,
        )
        sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
