# /// script
# requires-python = ">=3.11"
# dependencies = ["grafana-foundation-sdk==1769699998!10.1.0"]
# ///
"""Writes the Grafana dashboards beside this file: `uv run charts/everloop/dashboards/generate.py [--check]`.

Three pages, a file each: the loop, serving, data and drift. A panel is a title, a sentence, a unit, and what is asked
of Prometheus. `--check` writes nothing and fails if a file is not what would be written.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from data_page import DATA
from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from loop_page import LOOP
from parts import HEIGHT, Page, Panel
from serving_page import SERVING

HERE = Path(__file__).resolve().parent
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
PAGES = (LOOP, SERVING, DATA)


def rendered(page: Page) -> str:
    """The JSON of a dashboard, the same bytes each time."""
    made = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.text)
        .tags(["everloop"])
        .timezone("browser")
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("alias")
            .label("Alias")
            .datasource(SOURCE)
            # Not of the runs: before the first of them there is no page to look at.
            .query('label_values({__name__=~"everloop_model_info|everloop_runs"}, alias)')
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(models.VariableOption(selected=True, text="All", value="$__all"))
        )
    )
    numbers = itertools.count(1)
    for heading, panels in page.rows:
        made = made.with_row(dashboard.Row(heading).id(next(numbers)))
        for one in panels:
            made = made.with_panel(_built(one).id(next(numbers)))
    return json.dumps(json.loads(json.dumps(made.build(), cls=JSONEncoder)), indent=2, sort_keys=True) + "\n"


def _built(one: Panel) -> stat.Panel | timeseries.Panel:
    built = stat.Panel() if one.kind == "number" else _lines(areas=one.kind == "areas")
    built.title(one.title).description(one.text).unit(one.unit).datasource(SOURCE).height(HEIGHT).span(one.width)
    for number, query in enumerate(one.queries):
        asked = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
        built.with_target(asked.datasource(SOURCE))
    return built


def _lines(*, areas: bool) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_models.LegendDisplayMode.LIST)
    legend.placement(common_models.LegendPlacement.BOTTOM).calcs([])
    built = timeseries.Panel().line_width(1).fill_opacity(25 if areas else 5).min(0).legend(legend)
    if areas:
        built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL))
    return built


def main() -> int:
    """Writes the files, or compares them."""
    wrong = []
    for page in PAGES:
        path, text = HERE / f"{page.uid}.json", rendered(page)
        if "--check" in sys.argv[1:]:
            wrong += [] if path.exists() and path.read_text() == text else [path.name]
        else:
            path.write_text(text)
    if wrong:
        sys.stderr.write(f"not what generate.py writes: {', '.join(wrong)}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
