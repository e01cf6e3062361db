"""Each alert fires when it should and keeps quiet when it should, as promtool evaluates the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).resolve().parents[2] / "charts" / "everloop" / "rules"
FILES = sorted(RULES.glob("*.yaml"))
PROMTOOL = shutil.which("promtool")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series a minute apart, in promtool's notation, and whether the alert is firing at a time."""

    alert: str
    when: str
    series: Mapping[str, str] = field(default_factory=dict)
    at: str
    fires: bool


def answers(per_minute: float, errors_per_minute: float, *, variant: str = "champion") -> dict[str, str]:
    labels = f'alias="tiny", variant="{variant}", version="v1"'
    return {
        f'everloop_requests_total{{{labels}, outcome="ok"}}': f"0+{per_minute}x400",
        f'everloop_requests_total{{{labels}, outcome="error"}}': f"0+{errors_per_minute}x400",
    }


def first_tokens(slow_per_minute: float, quick_per_minute: float) -> dict[str, str]:
    labels = 'alias="tiny", variant="champion", version="v1"'
    both = slow_per_minute + quick_per_minute
    return {
        f'everloop_ttft_seconds_bucket{{{labels}, le="0.5"}}': f"0+{quick_per_minute}x60",
        f'everloop_ttft_seconds_bucket{{{labels}, le="5.0"}}': f"0+{quick_per_minute}x60",
        f'everloop_ttft_seconds_bucket{{{labels}, le="10.0"}}': f"0+{both}x60",
        f'everloop_ttft_seconds_bucket{{{labels}, le="+Inf"}}': f"0+{both}x60",
        f'everloop_requests_total{{{labels}, outcome="ok"}}': f"0+{both}x60",
    }


ALIAS = '{alias="tiny"}'
ROUNDS = 'everloop_rounds_total{alias="tiny", outcome="failed"}'
DRIFT = 'everloop_drift_statistic{alias="tiny", detector="mmd"}'
THRESHOLD = 'everloop_drift_threshold{alias="tiny", detector="mmd"}'
CONFIRMED = f"everloop_drift_alarms_confirmed_total{ALIAS}"
AGE = f"everloop_canary_age_seconds{ALIAS}"
REFUSED = 'everloop_requests_refused_total{alias="tiny", reason="full"}'
LAST_ROUND = "everloop_reconcile_last_success_timestamp_seconds"
FREE, TOTAL = "minio_cluster_capacity_usable_free_bytes", "minio_cluster_capacity_usable_total_bytes"
DOOR = 'everloop_door_requests_total{method="GET", route="/v1/runs", status="%s"}'
FALLBACKS = f"everloop_fallbacks_total{ALIAS}"


def case(alert: str, when: str, at: str, series: Mapping[str, str], *, fires: bool) -> Case:
    return Case(alert=alert, when=when, at=at, series=series, fires=fires)


CASES = [
    case("ErrorBudgetBurnsFast", "a fifth of the answers fail for an hour", "65m", answers(8, 2), fires=True),
    case("ErrorBudgetBurnsFast", "one in a hundred fails", "65m", answers(99, 1), fires=False),
    case(
        "ErrorBudgetBurnsFast",
        "only shadows fail",
        "65m",
        {**answers(10, 0), **answers(8, 2, variant="shadow")},
        fires=False,
    ),
    case(
        "ErrorBudgetBurnsFast",
        "the champion answers for a failing canary",
        "65m",
        {**answers(10, 0), **answers(0, 2, variant="canary"), FALLBACKS: "0+2x400"},
        fires=False,
    ),
    case(
        "ErrorBudgetBurnsFast",
        "the failures have ended",
        "65m",
        {
            **answers(10, 0),
            'everloop_requests_total{alias="tiny", variant="champion", version="v1", outcome="error"}': "0+5x50 250x40",
        },
        fires=False,
    ),
    case(
        "ErrorBudgetBurnsFast",
        "one of a handful of requests fails",
        "65m",
        {
            'everloop_requests_total{alias="tiny", variant="champion", version="v1", outcome="error"}': "0x30 1x60",
            'everloop_requests_total{alias="tiny", variant="champion", version="v1", outcome="ok"}': "0x30 1x60",
        },
        fires=False,
    ),
    case("ErrorBudgetBurns", "eight in a hundred fail for six hours", "380m", answers(92, 8), fires=True),
    case("ErrorBudgetBurns", "two in a hundred fail for six hours", "380m", answers(98, 2), fires=False),
    case("FirstTokenSlow", "one answer in five waits long", "30m", first_tokens(2, 8), fires=True),
    case("FirstTokenSlow", "one answer in a hundred waits long", "30m", first_tokens(1, 99), fires=False),
    case("FirstTokenSlow", "it has only begun", "5m", first_tokens(2, 8), fires=False),
    case("QueueFull", "requests are refused for ten minutes", "15m", {REFUSED: "0+6x30"}, fires=True),
    case("QueueFull", "a single burst is refused", "20m", {REFUSED: "0x3 6x30"}, fires=False),
    case(
        "RequestsPileUp",
        "thirty are in flight for ten minutes",
        "10m",
        {"everloop_requests_in_flight": "30x20"},
        fires=True,
    ),
    case("RequestsPileUp", "four are", "10m", {"everloop_requests_in_flight": "4x20"}, fires=False),
    case("CanaryStuck", "it is seven hours old", "10m", {AGE: "25200+60x20"}, fires=True),
    case("CanaryStuck", "there is none", "10m", {AGE: "0x20"}, fires=False),
    case("CanaryStuck", "it is an hour old", "10m", {AGE: "3600+60x20"}, fires=False),
    case(
        "ReleaseLogUnread", "it was read long ago", "10m", {"everloop_release_log_age_seconds": "60+60x20"}, fires=True
    ),
    case(
        "ReleaseLogUnread", "it is read each second", "10m", {"everloop_release_log_age_seconds": "0.4x20"}, fires=False
    ),
    case("OutcomesLost", "some were lost now", "12m", {f"everloop_outcomes_lost{ALIAS}": "0x10 40x10"}, fires=True),
    case(
        "OutcomesLost", "some were lost long ago", "60m", {f"everloop_outcomes_lost{ALIAS}": "0x10 40x60"}, fires=False
    ),
    case("ReconcilerSilent", "its last round is old", "20m", {LAST_ROUND: "60x30"}, fires=True),
    case("ReconcilerSilent", "it is not there at all", "10m", {'up{job="other"}': "1x20"}, fires=True),
    case("ReconcilerSilent", "it does its rounds", "20m", {LAST_ROUND: "0+60x30"}, fires=False),
    case(
        "ReconcilerTroubled",
        "a part fails each minute",
        "45m",
        {'everloop_reconcile_problems_total{part="scan"}': "0+1x60"},
        fires=True,
    ),
    case(
        "ReconcilerTroubled",
        "a part failed twice",
        "45m",
        {'everloop_reconcile_problems_total{part="scan"}': "0 1 2x60"},
        fires=False,
    ),
    case(
        "RunStuck",
        "no record for two hours",
        "10m",
        {f"everloop_active_run_idle_seconds{ALIAS}": "7200+60x20"},
        fires=True,
    ),
    case("RunStuck", "a record each minute", "10m", {f"everloop_active_run_idle_seconds{ALIAS}": "30x20"}, fires=False),
    case("RetrainFailed", "the first ever failed", "70m", {ROUNDS: "_x60 1x20"}, fires=True),
    case("RetrainFailed", "one more failed", "70m", {ROUNDS: "3x60 4x20"}, fires=True),
    case("RetrainFailed", "one failed yesterday", "130m", {ROUNDS: "3x140"}, fires=False),
    case(
        "RetrainFailed",
        "one was promoted",
        "70m",
        {'everloop_rounds_total{alias="tiny", outcome="promoted"}': "_x60 1x20"},
        fires=False,
    ),
    case("RunDead", "one was given up", "70m", {'everloop_runs{alias="tiny", status="dead"}': "0x60 1x20"}, fires=True),
    case(
        "RunDead",
        "one was given up long ago",
        "130m",
        {'everloop_runs{alias="tiny", status="dead"}': "1x140"},
        fires=False,
    ),
    case(
        "OutboxStuck",
        "the oldest waits for half an hour",
        "10m",
        {"everloop_outbox_oldest_pending_seconds": "1800+60x20"},
        fires=True,
    ),
    case("OutboxStuck", "nothing waits", "10m", {"everloop_outbox_oldest_pending_seconds": "0x20"}, fires=False),
    case("DeadLetters", "there is one", "2m", {"everloop_outbox_dead": "1x10"}, fires=True),
    case("DeadLetters", "there is none", "2m", {"everloop_outbox_dead": "0x10"}, fires=False),
    case("Drift", "an alarm was confirmed", "22m", {CONFIRMED: "0x20 1x20"}, fires=True),
    case("Drift", "the first ever was confirmed", "22m", {CONFIRMED: "_x20 1x20"}, fires=True),
    case("Drift", "it was confirmed long ago", "40m", {CONFIRMED: "0x5 1x40"}, fires=False),
    case("Drift", "a new reference starts at none", "22m", {CONFIRMED: "2x20 0x20"}, fires=False),
    case("DriftUnconfirmed", "it stays above its threshold", "40m", {DRIFT: "0.4x60", THRESHOLD: "0.2x60"}, fires=True),
    case("DriftUnconfirmed", "it peaks once", "40m", {DRIFT: "0.1x30 0.4x2 0.1x30", THRESHOLD: "0.2x60"}, fires=False),
    case(
        "SignalsWait",
        "one has waited for seven hours",
        "420m",
        {f"everloop_signals_pending{ALIAS}": "1x500"},
        fires=True,
    ),
    case(
        "SignalsWait",
        "it was taken after an hour",
        "420m",
        {f"everloop_signals_pending{ALIAS}": "1x60 0x500"},
        fires=False,
    ),
    case("TargetDown", "a target is down", "5m", {'up{job="minio", instance="a"}': "0x10"}, fires=True),
    case("TargetDown", "it misses one scrape", "5m", {'up{job="minio", instance="a"}': "1 1 0 1x10"}, fires=False),
    case("StorageFills", "a twentieth is left", "15m", {FREE: "5x30", TOTAL: "100x30"}, fires=True),
    case("StorageFills", "half is left", "15m", {FREE: "50x30", TOTAL: "100x30"}, fires=False),
    case("DoorFails", "a tenth fails", "15m", {DOOR % 503: "0+1x30", DOOR % 200: "0+9x30"}, fires=True),
    case(
        "DoorFails",
        "callers ask for what is not there",
        "15m",
        {DOOR % 404: "0+5x30", DOOR % 200: "0+5x30"},
        fires=False,
    ),
    case("PoliciesStale", "wrong files", "10m", {"everloop_policies_stale": "1x20"}, fires=True),
    case("PoliciesStale", "right files", "10m", {"everloop_policies_stale": "0x20"}, fires=False),
]


def alerts() -> list[dict[str, Any]]:
    documents = [yaml.safe_load(path.read_text()) for path in FILES]
    return [
        rule for document in documents for group in document["groups"] for rule in group["rules"] if "alert" in rule
    ]


def run_promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    if PROMTOOL is None:
        pytest.skip("no promtool: apt-get install prometheus")
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)


def evaluate(folder: Path, cases: Sequence[Case]) -> str:
    """What promtool says of all cases in one go; a case that does not hold is named in it."""
    tests = []
    for wanted in cases:
        firing = f'ALERTS{{alertname="{wanted.alert}", alertstate="firing"}}'
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in wanted.series.items()],
                "promql_expr_test": [
                    {
                        # A failure shows the expression, and so the comment that names the case.
                        "expr": f"count({firing}) or vector(0) # <{wanted.alert}: {wanted.when}>",
                        "eval_time": wanted.at,
                        "exp_samples": [{"labels": "{}", "value": int(wanted.fires)}],
                    }
                ],
            }
        )
    document = {"rule_files": [str(path) for path in FILES], "evaluation_interval": "1m", "tests": tests}
    path = folder / "test.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML.
    done = run_promtool("test", "rules", str(path))
    assert done.returncode in (0, 1), done.stderr
    assert ("SUCCESS" in done.stdout) == (done.returncode == 0), done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> str:
    return evaluate(tmp_path_factory.mktemp("promtool"), CASES)


def test_the_rules_are_valid() -> None:
    done = run_promtool("check", "rules", *map(str, FILES))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wanted", CASES, ids=lambda case: f"{case.alert}: {case.when}")
def test_an_alert_fires_exactly_when_it_should(wanted: Case, told: str) -> None:
    assert f"<{wanted.alert}: {wanted.when}>" not in told, told


def test_a_case_with_the_wrong_expectation_is_named(tmp_path: Path) -> None:
    wrong = case("DeadLetters", "there is one", "2m", {"everloop_outbox_dead": "1x10"}, fires=False)

    assert "<DeadLetters: there is one>" in evaluate(tmp_path, [*CASES[:3], wrong])


def test_each_alert_has_a_case_for_firing_and_one_for_quiet() -> None:
    wanted = {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}

    assert {(case.alert, case.fires) for case in CASES} == wanted


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}


def test_only_drift_is_a_signal_for_the_loop() -> None:
    assert {rule["alert"]: rule["labels"]["signal"] for rule in alerts() if "signal" in rule["labels"]} == {
        "Drift": "drift"
    }


def test_the_documents_list_every_alert() -> None:
    page = (RULES.parents[2] / "docs" / "dashboards.md").read_text()

    assert {rule["alert"] for rule in alerts()} == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
