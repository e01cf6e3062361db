"""Ray's own state in Redis: what outlives the head. EVERLOOP_CLUSTER_REDIS_IMAGE names an image with
`redis-server`, which must be on the node.
"""

from __future__ import annotations

import json
import os
import time

import pytest

from tests.cluster.asking import finished, submit
from tests.cluster.conftest import Cluster, install
from tests.cluster.outside import Outside, bring_outside

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WITH_REDIS = (
    "--set", "ray.gcsFaultTolerance.enabled=true",
    "--set", "ray.gcsFaultTolerance.redisAddress=redis:6379",
    "--set", "ray.gcsFaultTolerance.passwordSecret=redis",
    # All of the endpoint's replicas on the worker.
    "--set", "ray.head.numCpus=0",
)  # fmt: skip
MANIFESTS = """
apiVersion: v1
kind: Secret
metadata: {{name: redis}}
stringData: {{password: {password}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: redis, labels: {{app: redis}}}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: redis
      image: {image}
      command: [redis-server, --save, "", --dir, /tmp, --protected-mode, "no", --requirepass, $(PASSWORD)]
      env: [{{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: redis, key: password}}}}}}]
      securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
      readinessProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 2, timeoutSeconds: 10}}
      resources: {{requests: {{cpu: 20m, memory: 64Mi}}, limits: {{memory: 256Mi}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: redis}}
spec: {{selector: {{app: redis}}, ports: [{{port: 6379}}]}}
"""


@pytest.fixture(scope="module")
def outside(fresh_namespace: Cluster) -> Outside:
    image = os.environ.get("EVERLOOP_CLUSTER_REDIS_IMAGE")
    if not image:
        pytest.skip("EVERLOOP_CLUSTER_REDIS_IMAGE names no image of Redis")
    fresh_namespace.kubectl("apply", "-f", "-", stdin=MANIFESTS.format(password=os.urandom(16).hex(), image=image))
    fresh_namespace.kubectl("wait", "--for=condition=Ready", "pod/redis", "--timeout=180s", timeout_s=200)
    brought = bring_outside(fresh_namespace)
    install(fresh_namespace, *WITH_REDIS)
    return brought


def test_the_worker_outlives_the_head_and_the_endpoint_answers_again(outside: Outside) -> None:
    cluster = outside.cluster
    submit(cluster, "kept")
    cluster.wait("there is a model", lambda: finished(cluster, "kept"))
    lost, worker = cluster.head(), _worker(cluster)
    with outside.load("nano") as sent:
        began = time.monotonic()
        cluster.kubectl("delete", "pod", lost, "--grace-period=0", "--force")
        cluster.wait("another head", lambda: cluster.head() != lost)
        cluster.wait("all pods are ready", cluster.all_ready)
        back_s = time.monotonic() - began
    print(f"the head was back after {back_s:.0f} s; {sent[0]}")
    assert _worker(cluster) == worker, "another worker, or one that was started anew"
    assert sent[0].statuses.get(200, 0) > 0, "the endpoint answers again"
    submit(cluster, "after", "--set", "scrape.name=again")
    cluster.wait("a run goes on the new head", lambda: finished(cluster, "after"))


def _worker(cluster: Cluster) -> str:
    """The worker, and how often its container was started."""
    (pod,) = cluster.get("pods", "-l", "ray.io/node-type=worker")["items"]
    return json.dumps([pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]])
