"""The page about the loop: runs, releases, people who are told."""

from __future__ import annotations

from parts import ALIAS, RATE, Page, panel

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
