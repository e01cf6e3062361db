"""Who may die: each part of a whole set is deleted while a run is under way and the endpoint has steady load.

The table at the end says, for each, how many requests failed and how long the endpoint and the part were away.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tests.cluster.asking import attempts, finished, run_status, submit, succeeded
from tests.cluster.conftest import Cluster, install, pod_is_ready
from tests.cluster.outside import Outside, Sent, bring_outside

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WHOLE = (
    "--set", "airflow.enabled=true",
    "--set", "airflow.recipe=nano",
    "--set", "airflow.cron=0 0 1 1 *",  # no round beside those of the tests
    "--set", "n8n.enabled=true",
    "--set", "n8n.settings.slack.url=http://outside:8080/slack",
)  # fmt: skip
# The load, always the same prompt, is drift: the rest after each run keeps the loop from answering it in between.
MORE = ("--set", "evaluate.margin=0.5")
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


HEADER = """
| killed | while | requests | failed | endpoint away | slowest answer | back after | the run |
| - | - | - | - | - | - | - | - |"""


@dataclass
class Table:
    """What came of each kill."""

    rows: list[str] = field(default_factory=list)

    def add(self, killed: str, when: str, sent: Sent, back_s: float, run: str) -> None:
        """Puts down a row, and prints it at once with what went wrong: a later test may not come to its end."""
        away = f"{sent.outage_s:.0f} s" if sent.failed else "-"
        took = f"{sent.slowest_s:.1f} s | {back_s:.0f} s"
        self.rows.append(f"| {killed} | {when} | {sent.total} | {sent.failed} | {away} | {took} | {run} |")
        print(f"\n{self.rows[-1]} {sent.reasons or ''}")

    def __str__(self) -> str:
        return "\n".join([HEADER, *self.rows])


@pytest.fixture(scope="module")
def outside(whole_namespace: Cluster) -> Outside:
    """The whole set with a model that answers."""
    brought = bring_outside(whole_namespace)
    install(whole_namespace, *WHOLE)
    first = fresh("before")
    submit(whole_namespace, first, *MORE)
    whole_namespace.wait("there is a model", lambda: finished(whole_namespace, first))
    return brought


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    print(f"\n{made}")


def fresh(name: str) -> str:
    """An id of a run that a release which is used again does not know yet."""
    return f"{name}-{os.getpid()}"


def at_step(cluster: Cluster, run_id: str, name: str) -> bool:
    return any(s["name"] == name and s["status"] == "running" for s in run_status(cluster, run_id)["steps"])


def has_challenger(cluster: Cluster) -> bool:
    return cluster.run_in("deploy/el-triggers", "triggers", CHALLENGER).split()[-1] == "True"


def once(cluster: Cluster, outside: Outside, run_id: str) -> None:
    """Nothing of the run happened twice where it can be seen from without."""
    assert told_of(cluster, run_id)["status"] == "succeeded"

    def told() -> list[str]:
        return [text for text in map(json.dumps, outside.seen()) if run_id in text and "succeeded" in text]

    cluster.wait("people are told", told, timeout_s=300)
    assert len(told()) == 1, told()
    _, found = outside.ask("http://el-mlflow:5000/api/2.0/mlflow/model-versions/search?max_results=1000")
    runs = [tag["value"] for each in found["model_versions"] for tag in each["tags"] if tag["key"] == "everloop.run_id"]
    assert runs.count(run_id) == 1, runs


@pytest.mark.parametrize("step", ["scrape", "train", "canary"])
def test_the_head(outside: Outside, table: Table, step: str) -> None:
    cluster, run_id = outside.cluster, fresh(f"head-in-{step}")
    cluster.wait("all pods are ready", cluster.all_ready)
    submit(cluster, run_id, *MORE, *(TRAINING if step == "train" else ()), *(CANARY if step == "canary" else ()))
    met = (lambda: has_challenger(cluster)) if step == "canary" else (lambda: at_step(cluster, run_id, step))
    cluster.wait(f"it is in {step}", met)
    before = told_of(cluster, run_id)
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
    table.add("head", step, sent[0], back_s, f"succeeded, {sum(attempts(run).values())} attempts")
    assert sent[0].statuses.get(200, 0) > 0, "the endpoint answers again"
    once(cluster, outside, run_id)


def told_of(cluster: Cluster, run_id: str) -> dict[str, Any]:
    """Status of a run, asked for until the door answers: it may be one of those that were killed."""
    found: dict[str, Any] = cluster.wait("the door tells of the run", partial(run_status, cluster, run_id))
    return found


def is_running(cluster: Cluster, run_id: str) -> bool:
    return bool(run_status(cluster, run_id)["status"] == "running")


def is_ready(cluster: Cluster, selected: tuple[str, ...]) -> bool:
    pods = cluster.get("pods", *selected)["items"]
    return bool(pods) and all(map(pod_is_ready, pods))


def test_everything_else(outside: Outside, table: Table) -> None:
    """One part after the other is deleted, each while a run is under way: the next one begins when one has ended."""
    cluster = outside.cluster
    cluster.wait("all pods are ready", cluster.all_ready)
    victims = {
        "MinIO": ("-l", "app.kubernetes.io/component=minio"),
        "triggers": ("-l", "app.kubernetes.io/component=triggers"),
        "n8n": ("-l", "app.kubernetes.io/component=n8n"),
        "Airflow, all its parts": ("-l", "app.kubernetes.io/component=airflow"),
        "operator": OPERATOR,
        "worker": ("-l", "ray.io/node-type=worker"),
    }
    begun: list[str] = []
    failed: dict[str, Sent] = {}
    for name, selected in victims.items():
        if not begun or told_of(cluster, begun[-1])["status"] == "succeeded":
            begun.append(fresh(f"all-else-{len(begun)}"))
            submit(cluster, begun[-1], *MORE, *TRAINING)
        run_id = begun[-1]
        cluster.wait("it has begun", partial(is_running, cluster, run_id))
        with outside.load("nano") as sent:
            steps = [s["name"] for s in told_of(cluster, run_id)["steps"] if s["status"] == "running"]
            began = time.monotonic()
            cluster.kubectl("delete", "pod", *selected, "--grace-period=0", "--force")
            cluster.wait(f"{name} is back", partial(is_ready, cluster, selected))
            back_s = time.monotonic() - began
        table.add(name, ", ".join(steps) or "between steps", sent[0], back_s, f"{run_id} went on")
        assert sent[0].statuses.get(200, 0) > 0
        if name != "worker" and sent[0].failed:  # replicas of the endpoint may be on it
            failed[name] = sent[0]
    for run_id in begun:
        cluster.wait("the run has come to its end", partial(finished, cluster, run_id))
        once(cluster, outside, run_id)
    assert not failed
