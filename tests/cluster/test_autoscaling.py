"""Ray's autoscaler, on by default in the chart: a worker comes when work needs it, and goes when it is idle."""

from __future__ import annotations

import time

import pytest

from tests.cluster.asking import finished, submit
from tests.cluster.conftest import Cluster, install

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SCALED = (
    "--set", "ray.autoscaling.enabled=true",
    "--set", "ray.autoscaling.idleTimeoutSeconds=20",
    "--set", "ray.workers.cpu.maxReplicas=2",
)  # fmt: skip
# Two actors, of which each fills a worker.
NEEDS_TWO_WORKERS = """
import ray
ray.init(address="auto", logging_level="ERROR")

@ray.remote(num_cpus=4)
class Place:
    def node(self):
        return ray.get_runtime_context().get_node_id()

places = [Place.remote() for _ in range(2)]
print(len(set(ray.get([place.node.remote() for place in places], timeout=600))))
"""


@pytest.fixture(scope="module")
def scaled(fresh_namespace: Cluster) -> Cluster:
    install(fresh_namespace, *SCALED)
    return fresh_namespace


def workers(cluster: Cluster) -> list[str]:
    pods = cluster.get("pods", "-l", "ray.io/node-type=worker")["items"]
    return [pod["metadata"]["name"] for pod in pods]


def test_a_worker_comes_when_work_needs_it_and_goes_when_it_is_idle(scaled: Cluster) -> None:
    assert len(workers(scaled)) == 1, "the control"
    began = time.monotonic()
    places = scaled.run_in(scaled.head(), "ray-head", NEEDS_TWO_WORKERS, timeout_s=700)
    print(f"a second worker came within {time.monotonic() - began:.0f} s")
    assert places.split()[-1] == "2"
    ended = time.monotonic()
    scaled.wait("a worker has gone", lambda: len(workers(scaled)) == 1)
    print(f"one of them was gone after {time.monotonic() - ended:.0f} s")


def test_a_run_ends_under_the_autoscaler(scaled: Cluster) -> None:
    submit(scaled, "scaled")
    scaled.wait("the run has succeeded", lambda: finished(scaled, "scaled"))
    assert scaled.all_ready()
