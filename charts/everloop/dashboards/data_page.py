"""The page about data and drift."""

from __future__ import annotations

from parts import ALIAS, RATE, Page, panel, rate, share

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
