"""The page about serving: requests, their times, the canary."""

from __future__ import annotations

from parts import ALIAS, ANSWERED, CLIENTS, RATE, Page, panel, quantile, rate, share

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
