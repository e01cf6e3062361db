"""A real Kubernetes (KUBECONFIG, or the one that ../shared/k8s brings up here), with the chart installed in a namespace
that enforces Pod Security `restricted`. The images must be there: `make images`, then load them. With
EVERLOOP_CLUSTER_NAMESPACE the release `el` of that namespace is used, if there is one.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

CHART = Path(__file__).resolve().parents[2] / "charts" / "everloop"
RIG = Path("/var/lib/k8s-rig")
READY_S = 900.0


@dataclass(frozen=True)
class Cluster:
    """Programs that reach the cluster, and the namespace of the release `el`."""

    kubectl_path: str
    helm_path: str
    environ: dict[str, str]
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120.0) -> str:
        """What kubectl prints; fails the test with what it says."""
        done = subprocess.run(
            [self.kubectl_path, "-n", self.namespace, *arguments],
            input=stdin, capture_output=True, text=True, env=self.environ, timeout=timeout_s, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def helm(self, *arguments: str, timeout_s: float = 1200.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.helm_path, "-n", self.namespace, *arguments],
            capture_output=True, text=True, env=self.environ, timeout=timeout_s, check=False,
        )  # fmt: skip

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def secret(self, key: str) -> str:
        return base64.b64decode(self.get("secret", "el-secrets")["data"][key]).decode()

    def head(self) -> str:
        """The pod that is the head now."""
        selected = self.get("pods", "-l", "ray.io/node-type=head")["items"]
        living = [pod for pod in selected if "deletionTimestamp" not in pod["metadata"]]
        assert len(living) == 1, [pod["metadata"]["name"] for pod in selected]
        return str(living[0]["metadata"]["name"])

    def run_in(self, pod: str, container: str, script: str, *, timeout_s: float = 120.0) -> str:
        """Runs Python in a container."""
        return self.kubectl("exec", "-i", pod, "-c", container, "--", "python3", "-", stdin=script, timeout_s=timeout_s)

    def wait(self, what: str, found: Callable[[], Any], *, timeout_s: float = READY_S) -> Any:
        """Waits until something is true, and gives it."""
        deadline = time.monotonic() + timeout_s
        last = ""
        while time.monotonic() < deadline:
            try:
                if value := found():
                    return value
            except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
                last = str(error)
            time.sleep(2)
        pods = self.kubectl("get", "pods", "-o", "wide")
        raise AssertionError(f"{what}: not within {timeout_s:.0f} s\n{last}\n{pods}")

    def has_image(self, role: str) -> bool:
        """Whether a node has the image of a role."""
        names = self.kubectl("get", "nodes", "-o", "jsonpath={.items[*].status.images[*].names}")
        return f"everloop/{role}:" in names

    def all_ready(self) -> bool:
        """Whether every pod of the release is ready, and there are head and worker among them."""
        pods = self.get("pods", "-l", "app.kubernetes.io/instance=el,app.kubernetes.io/component!=test")["items"]
        kinds = {pod["metadata"]["labels"].get("ray.io/node-type") for pod in pods}
        return {"head", "worker"} <= kinds and all(map(pod_is_ready, pods))


def pod_is_ready(pod: dict[str, Any]) -> bool:
    """Whether it says so itself; one that has no node yet says nothing."""
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([str(RIG / "bin"), os.environ.get("PATH", "")]))


@pytest.fixture(scope="session")
def unused_cluster() -> Cluster:
    """A cluster that answers, and a namespace that is not there yet."""
    kubeconfig = os.environ.get("KUBECONFIG") or str(RIG / "pki" / "admin.conf")
    kubectl, helm = _program("kubectl"), _program("helm")
    if not Path(kubeconfig).exists() or kubectl is None or helm is None:
        pytest.skip("no cluster: set KUBECONFIG, and have kubectl and helm on PATH")
    environ = {**os.environ, "KUBECONFIG": kubeconfig}
    if subprocess.run([kubectl, "get", "nodes"], env=environ, capture_output=True, timeout=30, check=False).returncode:
        pytest.skip(f"the cluster of {kubeconfig} does not answer")
    return Cluster(kubectl, helm, environ, f"everloop-test-{os.getpid()}")


@contextmanager
def namespace(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace that admits nothing but `restricted` pods, until the block ends."""
    if reused := os.environ.get("EVERLOOP_CLUSTER_NAMESPACE"):
        yield replace(cluster, namespace=reused)
        return
    cluster.kubectl("create", "namespace", cluster.namespace)
    try:
        cluster.kubectl("label", "namespace", cluster.namespace, "pod-security.kubernetes.io/enforce=restricted")
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false")


@pytest.fixture(scope="session")
def empty_namespace(unused_cluster: Cluster) -> Iterator[Cluster]:
    """A fresh namespace that admits nothing but `restricted` pods."""
    with namespace(unused_cluster) as made:
        yield made


@pytest.fixture(scope="session")
def installed(empty_namespace: Cluster) -> Cluster:
    """The release `el` of profile `ci`, all of it ready; the last test of test_loop.py takes it away."""
    install(empty_namespace, "--set", "triggers.aliases.nano.recipe=nano")
    return empty_namespace


@pytest.fixture(scope="module")
def fresh_namespace(unused_cluster: Cluster) -> Iterator[Cluster]:
    """A namespace for the tests of one file."""
    name = f"{unused_cluster.namespace}-{time.monotonic_ns() % 10**6}"
    with namespace(replace(unused_cluster, namespace=name)) as made:
        yield made


@pytest.fixture(scope="module")
def whole_namespace(fresh_namespace: Cluster) -> Cluster:
    """One for a whole set, with Airflow and n8n."""
    for role in ("airflow", "n8n"):
        if not fresh_namespace.has_image(role):
            pytest.skip(f"no node has the image of {role}")
    return fresh_namespace


def install(cluster: Cluster, *changes: str) -> None:
    """Installs the release `el` of profile `ci`, waits until all of it is ready, and prints how long that took."""
    began = time.monotonic()
    if cluster.helm("status", "el").returncode == 0:
        return
    done = cluster.helm("install", "el", str(CHART), "-f", str(CHART / "ci" / "ci-values.yaml"), *changes)
    assert done.returncode == 0, done.stderr
    cluster.wait("all pods are ready", cluster.all_ready)
    print(f"installed and ready in {time.monotonic() - began:.0f} s")
