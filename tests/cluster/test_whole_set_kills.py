"""Who may die: each part of a whole set is deleted while a run is under way and the endpoint has steady load.

The table at the end says, for each, how many requests failed and how long the endpoint and the part were away.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.cluster.asking import attempts, finished, run_status, submit, succeeded
from tests.cluster.conftest import Cluster, install
from tests.cluster.outside import Outside, Sent, bring_outside

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WHOLE = (
    "--set", "airflow.enabled=true",
    "--set", "airflow.recipe=nano",
    "--set", "n8n.enabled=true",
    "--set", "n8n.settings.slack.url=http://outside:8080/slack",
)  # fmt: skip
MORE = ("--set", "signals.cooldown_s=0", "--set", "evaluate.margin=0.5", "--set", "monitor.run_length=5000")
# Longer, so that it can be met in the act.
TRAINING = ("--set", "train.num_steps=200", "--set", "train.checkpoint_every_steps=20")
CANARY = ("--set", "deploy.min_step_s=20")
OPERATOR = ("-n", "kuberay-system", "-l", "app.kubernetes.io/component=kuberay-operator")
CHALLENGER = """
import os
from steps.common.releases import open_release_log
from workflows.log import open_store
print(bool(open_release_log(open_store(os.environ["EVERLOOP_STORAGE"]), "nano").refresh().challenger))
"""


@dataclass
class Table:
    """What came of each kill."""

    rows: list[tuple[str, str, Sent, float, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            "| killed | while | requests | failed | endpoint away | back after | the run |",
            "| - | - | - | - | - | - | - |",
        ]
        for killed, when, sent, back_s, run in self.rows:
            away = f"{sent.outage_s:.0f} s" if sent.failed else "-"
            lines.append(f"| {killed} | {when} | {sent.total} | {sent.failed} | {away} | {back_s:.0f} s | {run} |")
        return "\n".join(lines)


@pytest.fixture(scope="module")
def outside(whole_namespace: Cluster) -> Outside:
    """The whole set with a model that answers."""
    brought = bring_outside(whole_namespace)
    install(whole_namespace, *WHOLE)
    submit(whole_namespace, "before", *MORE)
    whole_namespace.wait("there is a model", lambda: finished(whole_namespace, "before"))
    return brought


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    print(f"\n{made}")


def at_step(cluster: Cluster, run_id: str, name: str) -> bool:
    return any(s["name"] == name and s["status"] == "running" for s in run_status(cluster, run_id)["steps"])


def has_challenger(cluster: Cluster) -> bool:
    return cluster.run_in("deploy/el-triggers", "triggers", CHALLENGER).split()[-1] == "True"


def once(cluster: Cluster, outside: Outside, run_id: str) -> None:
    """Nothing of the run happened twice where it can be seen from without."""
    assert run_status(cluster, run_id)["status"] == "succeeded"

    def told() -> list[str]:
        return [text for text in map(json.dumps, outside.seen()) if run_id in text and "succeeded" in text]

    cluster.wait("people are told", told, timeout_s=300)
    assert len(told()) == 1, told()
    _, found = outside.ask("http://el-mlflow:5000/api/2.0/mlflow/model-versions/search?max_results=1000")
    runs = [tag["value"] for each in found["model_versions"] for tag in each["tags"] if tag["key"] == "everloop.run_id"]
    assert runs.count(run_id) == 1, runs


@pytest.mark.parametrize("step", ["scrape", "train", "canary"])
def test_the_head(outside: Outside, table: Table, step: str) -> None:
    cluster, run_id = outside.cluster, f"head-in-{step}"
    cluster.wait("all pods are ready", cluster.all_ready)
    submit(cluster, run_id, *MORE, *(TRAINING if step == "train" else ()), *(CANARY if step == "canary" else ()))
    met = (lambda: has_challenger(cluster)) if step == "canary" else (lambda: at_step(cluster, run_id, step))
    cluster.wait(f"it is in {step}", met)
    before = run_status(cluster, run_id)
    lost = cluster.head()
    with outside.load("nano") as sent:
        began = time.monotonic()
        cluster.kubectl("delete", "pod", lost, "--grace-period=0", "--force")
        cluster.wait("another head", lambda: cluster.head() != lost)
        cluster.wait("all pods are ready", cluster.all_ready)
        back_s = time.monotonic() - began
        run = cluster.wait("the run has come to its end", lambda: finished(cluster, run_id))
    for name in succeeded(before):
        assert attempts(run)[name] == attempts(before)[name], f"{name} was recorded, and ran again"
    table.rows.append(("head", step, sent[0], back_s, f"succeeded, {sum(attempts(run).values())} attempts"))
    assert sent[0].statuses.get(200, 0) > 0, "the endpoint answers again"
    once(cluster, outside, run_id)


def test_everything_else(outside: Outside, table: Table) -> None:
    """One run, in which one part after the other is deleted."""
    cluster, run_id = outside.cluster, "all-else"
    cluster.wait("all pods are ready", cluster.all_ready)
    submit(cluster, run_id, *MORE, *TRAINING)
    victims = {
        "MinIO": ("-l", "app.kubernetes.io/component=minio"),
        "triggers": ("-l", "app.kubernetes.io/component=triggers"),
        "n8n": ("-l", "app.kubernetes.io/component=n8n"),
        "Airflow": ("-l", "app.kubernetes.io/component=airflow"),
        "operator": OPERATOR,
        "worker": ("-l", "ray.io/node-type=worker"),
    }
    cluster.wait("it has begun", lambda: run_status(cluster, run_id)["status"] == "running")
    for name, selected in victims.items():
        steps = [s["name"] for s in run_status(cluster, run_id)["steps"] if s["status"] == "running"]
        with outside.load("nano") as sent:
            began = time.monotonic()
            cluster.kubectl("delete", "pod", *selected, "--grace-period=0", "--force")

            def ready(selected: tuple[str, ...] = selected) -> bool:
                pods = cluster.get("pods", *selected)["items"]
                return bool(pods) and all(
                    each["status"] == "True"
                    for pod in pods
                    for each in pod["status"].get("conditions", [{"type": "Ready", "status": "False"}])
                    if each["type"] == "Ready"
                )

            cluster.wait(f"{name} is back", ready)
            back_s = time.monotonic() - began
        table.rows.append((name, ", ".join(steps) or "between steps", sent[0], back_s, "went on"))
        assert sent[0].statuses.get(200, 0) > 0
        if name != "worker":
            assert sent[0].failed == 0, f"{name}: {sent[0]}"
    cluster.wait("the run has come to its end", lambda: finished(cluster, run_id))
    once(cluster, outside, run_id)
