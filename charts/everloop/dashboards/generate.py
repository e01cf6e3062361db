# /// script
# requires-python = ">=3.11"
# dependencies = ["grafana-foundation-sdk==1769699998!10.1.0"]
# ///
"""Writes the Grafana dashboards beside this file: `uv run charts/everloop/dashboards/generate.py [--check]`.

Three pages: the loop, serving, data and drift. A panel is a row of the tables below: a title, a sentence, a unit, and
what is asked of Prometheus. `--check` writes nothing and fails if a file is not what would be written.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

HERE = Path(__file__).resolve().parent
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
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

LOOP = Page(
    "everloop-loop",
    "Everloop: loop",
    "Runs, signals, notifications, and what they stand on.",
    (
        (
            "Runs",
            (
                panel(
                    "Runs",
                    "All runs by where they stand.",
                    "short",
                    ("{{status}}", f"sum by (status) (everloop_runs{{{ALIAS}}})"),
                    kind="areas",
                ),
                panel(
                    "Stage",
                    "1 for the stage that an alias is in.",
                    "short",
                    ("{{alias}} {{stage}}", f"everloop_signal_stage{{{ALIAS}}} == 1"),
                    kind="areas",
                ),
                panel(
                    "Active run",
                    "How old it is, and how long ago it wrote its last record.",
                    "s",
                    ("age {{alias}}", f"everloop_active_run_age_seconds{{{ALIAS}}}"),
                    ("idle {{alias}}", f"everloop_active_run_idle_seconds{{{ALIAS}}}"),
                ),
                panel(
                    "Rounds",
                    "Rounds that have ended, by how.",
                    "short",
                    ("{{outcome}}", f"sum by (outcome) (everloop_rounds_total{{{ALIAS}}})"),
                    kind="areas",
                ),
                panel(
                    "Signals",
                    "Causes seen, by source and by what became of them.",
                    "short",
                    ("{{source}} {{outcome}}", f"sum by (source, outcome) (everloop_signals_total{{{ALIAS}}})"),
                    kind="areas",
                ),
                panel(
                    "Signals held back",
                    "Causes that got no run, by reason, and those that wait for one.",
                    "short",
                    ("{{reason}}", f"sum by (reason) (everloop_retrain_suppressed_total{{{ALIAS}}})"),
                    ("waiting", f"sum(everloop_signals_pending{{{ALIAS}}})"),
                ),
            ),
        ),
        (
            "Notifications",
            (
                panel(
                    "Waiting",
                    "Notifications on their way, and given up.",
                    "short",
                    ("pending", "everloop_outbox_pending"),
                    ("dead", "everloop_outbox_dead"),
                ),
                panel(
                    "Oldest waiting",
                    "An alert is raised at 15 minutes.",
                    "s",
                    ("oldest", "everloop_outbox_oldest_pending_seconds"),
                ),
                panel(
                    "Deliveries",
                    "By receiver and outcome.",
                    "short",
                    ("{{receiver}} {{outcome}}", "sum by (receiver, outcome) (everloop_outbox_deliveries_total)"),
                    kind="areas",
                ),
            ),
        ),
        (
            "Services",
            (
                panel("Targets", "1 while Prometheus can scrape it.", "short", ("{{job}}", "min by (job) (up)")),
                panel(
                    "Reconciler",
                    "Seconds since its last round.",
                    "s",
                    ("since the last round", "time() - everloop_reconcile_last_success_timestamp_seconds"),
                ),
                panel(
                    "Reconciler: problems",
                    "Parts of a round that failed and are tried again.",
                    "short",
                    ("{{part}}", f"sum by (part) (increase(everloop_reconcile_problems_total[{RATE}]))"),
                ),
                panel(
                    "Door",
                    "Requests a second, by status.",
                    "reqps",
                    ("{{status}}", f"sum by (status) (rate(everloop_door_requests_total[{RATE}]))"),
                    kind="areas",
                ),
                panel(
                    "Door: time",
                    "To the first byte of an answer.",
                    "s",
                    (
                        "p95 {{route}}",
                        f"histogram_quantile(0.95, sum by (route, le) (rate(everloop_door_seconds_bucket[{RATE}])))",
                    ),
                ),
                panel(
                    "Storage",
                    "What is stored, and what is free.",
                    "bytes",
                    ("used", "minio_cluster_usage_total_bytes"),
                    ("free", "minio_cluster_capacity_usable_free_bytes"),
                ),
            ),
        ),
    ),
)

SERVING = Page(
    "everloop-serving",
    "Everloop: serving",
    "What clients get, and the canary beside it.",
    (
        (
            "Now",
            (
                panel(
                    "Answers",
                    "A second, without shadows.",
                    "reqps",
                    ("answers", f"sum(rate(everloop_requests_total{{{CLIENTS}}}[{RATE}]))"),
                    kind="number",
                    width=6,
                ),
                panel(
                    "First token, p95",
                    "Over all variants.",
                    "s",
                    (
                        "p95",
                        f"histogram_quantile(0.95, {rate('everloop_ttft_seconds_bucket', 'le', CLIENTS)})",
                    ),
                    kind="number",
                    width=6,
                ),
                panel(
                    "In flight",
                    "Requests in the router.",
                    "short",
                    ("in flight", "sum(everloop_requests_in_flight)"),
                    kind="number",
                    width=6,
                ),
                panel(
                    "Canary",
                    "Share of sessions that the challenger answers.",
                    "percentunit",
                    ("{{alias}}", f"max by (alias) (everloop_canary_weight{{{ALIAS}}})"),
                    kind="number",
                    width=6,
                ),
            ),
        ),
        (
            "Answers",
            (
                panel(
                    "Answers by variant",
                    "A second.",
                    "reqps",
                    (
                        "{{variant}} {{version}}",
                        f"sum by (variant, version) (rate(everloop_requests_total{{{ALIAS}}}[{RATE}]))",
                    ),
                    kind="areas",
                ),
                panel(
                    "Errors by variant",
                    "Share of answers that failed or broke off.",
                    "percentunit",
                    (
                        "{{variant}}",
                        f"1 - ({ANSWERED} or {rate('everloop_requests_total', 'variant')} * 0)",
                    ),
                ),
                panel(
                    "Refused, caught, dropped",
                    "Refused before a model; canary failures that the champion answered; shadows dropped.",
                    "reqps",
                    (
                        "refused: {{reason}}",
                        f"sum by (reason) (rate(everloop_requests_refused_total{{{ALIAS}}}[{RATE}]))",
                    ),
                    ("caught", f"sum(rate(everloop_fallbacks_total{{{ALIAS}}}[{RATE}]))"),
                    ("shadow dropped", f"sum(rate(everloop_shadow_dropped_total{{{ALIAS}}}[{RATE}]))"),
                ),
                panel(
                    "Time to first token",
                    "Median and 95th percentile.",
                    "s",
                    ("p50 {{variant}}", quantile("0.5", "everloop_ttft_seconds", "variant")),
                    ("p95 {{variant}}", quantile("0.95", "everloop_ttft_seconds", "variant")),
                ),
                panel(
                    "Time per further token",
                    "Median and 95th percentile of the means of answers.",
                    "s",
                    ("p50 {{variant}}", quantile("0.5", "everloop_tpot_seconds", "variant")),
                    ("p95 {{variant}}", quantile("0.95", "everloop_tpot_seconds", "variant")),
                ),
                panel(
                    "Tokens",
                    "A second, by kind.",
                    "short",
                    (
                        "{{kind}} {{variant}}",
                        f"sum by (kind, variant) (rate(everloop_tokens_total{{{ALIAS}}}[{RATE}]))",
                    ),
                    kind="areas",
                ),
            ),
        ),
        (
            "Canary",
            (
                panel(
                    "Weight",
                    "Share of sessions, and the state of the rollout.",
                    "percentunit",
                    ("weight {{alias}}", f"max by (alias) (everloop_canary_weight{{{ALIAS}}})"),
                ),
                panel(
                    "Evidence against it",
                    "Logarithm of the e-value; rolled back at the alarm level, 1.3 for alpha 0.05.",
                    "short",
                    ("{{metric}}", f"log10(everloop_canary_evidence{{{ALIAS}}})"),
                ),
                panel(
                    "Failed units, upper bound",
                    "Anytime-valid; promoted when it is below the objective.",
                    "percentunit",
                    ("{{alias}}", f"everloop_canary_failed_upper_bound{{{ALIAS}}}"),
                ),
                panel(
                    "Units judged",
                    "Sessions by step, by variant.",
                    "short",
                    ("{{variant}}", f"sum by (variant) (everloop_canary_units{{{ALIAS}}})"),
                ),
                panel(
                    "Bad answers",
                    "Share, by variant and metric.",
                    "percentunit",
                    (
                        "{{variant}} {{metric}}",
                        share(rate("everloop_bad_answers_total", "variant, metric"), "variant"),
                    ),
                ),
                panel(
                    "Rollout",
                    "The state that it is in, and its age.",
                    "short",
                    ("{{state}}", f"everloop_rollout_state{{{ALIAS}}} == 1"),
                    ("age in hours", f"everloop_canary_age_seconds{{{ALIAS}}} / 3600"),
                ),
            ),
        ),
        (
            "Evidence in order",
            (
                panel(
                    "Release log",
                    "Seconds since the router last read it.",
                    "s",
                    ("{{instance}}", "everloop_release_log_age_seconds"),
                ),
                panel(
                    "Not counted",
                    "Outcomes lost, answers not scored.",
                    "short",
                    ("lost {{alias}}", f"everloop_outcomes_lost{{{ALIAS}}}"),
                    ("not scored {{alias}}", f"everloop_unscored_total{{{ALIAS}}}"),
                ),
                panel(
                    "Models",
                    "1 for each model version that serves.",
                    "short",
                    ("{{variant}} {{version}}", f"everloop_model_info{{{ALIAS}}}"),
                    kind="areas",
                ),
            ),
        ),
    ),
)

DATA = Page(
    "everloop-data",
    "Everloop: data and drift",
    "Whether the traffic is still what the champion was made for.",
    (
        (
            "Drift",
            (
                panel(
                    "Drift",
                    "Statistic as a share of its threshold; an alarm at 1.",
                    "percentunit",
                    (
                        "{{alias}} {{detector}}",
                        f"everloop_drift_statistic{{{ALIAS}}} / (everloop_drift_threshold{{{ALIAS}}} > 0)",
                    ),
                    width=12,
                ),
                panel(
                    "Statistic and threshold",
                    "As the detectors give them.",
                    "short",
                    ("{{detector}}", f"everloop_drift_statistic{{{ALIAS}}}"),
                    ("threshold {{detector}}", f"everloop_drift_threshold{{{ALIAS}}}"),
                    width=12,
                ),
                panel(
                    "Alarms",
                    "Since the reference came into force: raised, and confirmed by the next window.",
                    "short",
                    ("raised {{detector}}", f"sum by (detector) (everloop_drift_alarms_total{{{ALIAS}}})"),
                    ("confirmed", f"sum(everloop_drift_alarms_confirmed_total{{{ALIAS}}})"),
                ),
                panel(
                    "Prompts looked at",
                    "Since the reference came into force.",
                    "short",
                    ("{{alias}}", f"everloop_drift_prompts_total{{{ALIAS}}}"),
                ),
                panel(
                    "Run length",
                    "Sessions between false alarms: promised, and measured on a replay.",
                    "short",
                    ("{{kind}} {{alias}}", f"everloop_drift_run_length_sessions{{{ALIAS}}}"),
                ),
            ),
        ),
        (
            "Retraining",
            (
                panel(
                    "Retrainings",
                    "Ended, by cause and outcome.",
                    "short",
                    ("{{source}} {{outcome}}", f"sum by (source, outcome) (everloop_retrain_runs_total{{{ALIAS}}})"),
                    kind="areas",
                ),
                panel(
                    "Signals of drift and data",
                    "Causes seen.",
                    "short",
                    (
                        "{{source}}",
                        f'sum by (source) (everloop_signals_total{{{ALIAS}, source=~"drift|data|alert|schedule"}})',
                    ),
                ),
                panel("Storage", "Bytes and objects.", "bytes", ("bytes", "minio_cluster_usage_total_bytes")),
            ),
        ),
        (
            "Traffic",
            (
                panel(
                    "Prompt tokens",
                    "A second, by variant.",
                    "short",
                    (
                        "{{variant}}",
                        f'sum by (variant) (rate(everloop_tokens_total{{{ALIAS}, kind="prompt"}}[{RATE}]))',
                    ),
                ),
                panel(
                    "Tokens an answer",
                    "Mean, by variant.",
                    "short",
                    (
                        "{{variant}}",
                        share(rate("everloop_tokens_total", "variant", f'{ALIAS}, kind="answer"'), "variant"),
                    ),
                ),
                panel(
                    "Bad answers",
                    "A second, by metric.",
                    "reqps",
                    ("{{metric}}", f"sum by (metric) (rate(everloop_bad_answers_total{{{ALIAS}}}[{RATE}]))"),
                ),
            ),
        ),
    ),
)

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
