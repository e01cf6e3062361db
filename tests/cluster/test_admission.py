from __future__ import annotations

import pytest

from tests.cluster.conftest import CHART, Cluster

pytestmark = pytest.mark.cluster

ROOT_POD = """
apiVersion: v1
kind: Pod
metadata: {name: root}
spec: {containers: [{name: root, image: "everloop/triggers:0.1.0", securityContext: {runAsUser: 0}}]}
"""


@pytest.mark.parametrize("profile", ["ci", "small", "ha", "gpu"])
def test_the_api_server_takes_every_profile(empty_namespace: Cluster, profile: str) -> None:
    # A Prometheus operator is not part of the cluster; its own kind would not be known.
    rendered = empty_namespace.helm(
        "template", "el", str(CHART), "--kube-version", "1.34.0", "-f", str(CHART / "ci" / f"{profile}-values.yaml"),
        "--set", "serviceMonitor.enabled=false",
    )  # fmt: skip
    assert rendered.returncode == 0, rendered.stderr
    said = empty_namespace.kubectl("apply", "--dry-run=server", "-f", "-", stdin=rendered.stdout)
    assert "raycluster.ray.io/el-ray created (server dry run)" in said
    assert "pod/el-test created (server dry run)" in said


def test_the_namespace_refuses_a_pod_that_runs_as_root(empty_namespace: Cluster) -> None:
    with pytest.raises(AssertionError, match="PodSecurity"):
        empty_namespace.kubectl("apply", "--dry-run=server", "-f", "-", stdin=ROOT_POD)
