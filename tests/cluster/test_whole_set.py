"""From `helm install` to a promoted model and its successor with nobody at hand: Airflow's clock starts the rounds."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster.asking import STEPS, ask, run_status
from tests.cluster.conftest import Cluster, install
from tests.cluster.outside import Outside, bring_outside

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WHOLE = (
    "--set", "airflow.enabled=true",
    "--set", "airflow.recipe=nano",
    "--set", "airflow.cron=*/2 * * * *",
    # Airflow's schedule asks every two minutes. The same pages trained anew are no better: "not much worse" must do.
    "--set-json", 'airflow.overrides=["signals.cooldown_s=0","evaluate.margin=0.5","monitor.run_length=5000"]',
    "--set", "n8n.enabled=true",
    "--set", "n8n.settings.slack.url=http://outside:8080/slack",
)  # fmt: skip


AIRFLOW = """
import json, urllib.request
def call(path, body=None, token=None):
    headers = {"content-type": "application/json", **({"authorization": "Bearer " + token} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request("http://127.0.0.1:8080" + path, data, headers)
    return json.load(urllib.request.urlopen(request, timeout=60))
password = json.load(open("/tmp/passwords.json"))["admin"]
token = call("/auth/token", {"username": "admin", "password": password})["access_token"]
print(json.dumps([r["state"] for r in call("/api/v2/dags/everloop_loop/dagRuns", token=token)["dag_runs"]]))
"""


@pytest.fixture(scope="module")
def outside(whole_namespace: Cluster) -> Outside:
    """The whole set, and the world around it."""
    began = bring_outside(whole_namespace)
    install(whole_namespace, *WHOLE)
    return began


def runs(cluster: Cluster) -> list[str]:
    """Runs that have succeeded, the oldest first."""
    status, answer = ask(cluster, "http://el-triggers:8400/v1/runs", key=cluster.secret("api-key-admin"))
    assert status == 200, answer
    done = [run for run in answer["runs"] if run["status"] == "succeeded"]
    return [run["run_id"] for run in sorted(done, key=lambda run: run["created_at"])]


def release(cluster: Cluster) -> str:
    """Version of the champion."""
    script = (
        "import os\nfrom workflows.log import open_store\nfrom steps.common.releases import open_release_log\n"
        "print(open_release_log(open_store(os.environ['EVERLOOP_STORAGE']), 'nano').refresh().champion.version)"
    )
    return cluster.run_in("deploy/el-triggers", "triggers", script).split()[-1]


def test_the_clock_of_airflow_brings_a_model_to_the_endpoint(outside: Outside) -> None:
    cluster, began = outside.cluster, time.monotonic()
    (first, *_) = cluster.wait("a run has succeeded", lambda: runs(cluster), timeout_s=1200)
    print(f"the first model was promoted {time.monotonic() - began:.0f} s after all was ready")
    found = run_status(cluster, first)
    assert {step["name"] for step in found["steps"] if step["status"] == "succeeded"} >= STEPS
    body = {"model": "nano", "prompt": "The", "max_tokens": 4}
    status, answer = outside.ask("http://el-gateway/v1/completions", key=cluster.secret("api-key-endpoint"), body=body)
    assert status == 200, answer


def test_airflow_says_so_too(outside: Outside) -> None:
    def succeeded() -> bool:
        said = outside.cluster.run_in("deploy/el-airflow", "api-server", AIRFLOW).splitlines()[-1]
        return "success" in json.loads(said)

    assert outside.cluster.wait("a DAG run has succeeded", succeeded, timeout_s=300)


def test_people_are_told_by_n8n(outside: Outside) -> None:
    def told() -> list[str]:
        return [json.dumps(each["body"]) for each in outside.seen() if "nano" in json.dumps(each["body"])]

    texts = outside.cluster.wait("a message has come", told, timeout_s=900)
    print(f"{len(texts)} messages, the first: {texts[0][:300]}")


def test_mlflow_and_prometheus_have_their_numbers(outside: Outside) -> None:
    url = "http://el-mlflow:5000/api/2.0/mlflow/registered-models/search"
    assert "nano" in {model["name"] for model in outside.ask(url)[1]["registered_models"]}

    def scraped() -> bool:
        _, answer = outside.ask("http://el-prometheus:9090/api/v1/query?query=everloop_runs")
        counted = {
            (sample["metric"]["alias"], sample["metric"]["status"]): float(sample["value"][1])
            for sample in answer["data"]["result"]
        }
        _, answer = outside.ask("http://el-prometheus:9090/api/v1/query?query=up")
        up = {sample["metric"]["job"]: sample["value"][1] for sample in answer["data"]["result"]}
        jobs = {"ray-head", "ray-workers", "reconciler", "triggers", "n8n"}
        return counted.get(("nano", "succeeded"), 0) >= 1 and {up.get(job) for job in jobs} == {"1"}

    assert outside.cluster.wait("Prometheus has scraped", scraped, timeout_s=300)


def test_a_second_round_canaries(outside: Outside) -> None:
    cluster = outside.cluster
    done = cluster.wait("a second run has succeeded", lambda: len(runs(cluster)) >= 2 and runs(cluster), timeout_s=1800)

    def told(event: str) -> list[str]:
        return [text for text in map(json.dumps, outside.seen()) if done[1] in text and event in text]

    cluster.wait("a canary was told of", lambda: told("canary.started"), timeout_s=900)
    ends = ("canary.promoted", "canary.rolled_back", "canary.held")
    cluster.wait("so was its end", lambda: any(map(told, ends)), timeout_s=900)
    champion = release(cluster)
    print({event: len(told(event)) for event in ("canary.started", *ends)}, champion)
    assert (champion == "2") == bool(told("canary.promoted"))
