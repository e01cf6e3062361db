"""The outside world of a release: who asks its doors, puts load on its endpoint and takes its messages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.conftest import Cluster

SCRIPT = Path(__file__).with_name("tools_script.py")
IMAGE = "everloop/triggers:0.1.0"
MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {{name: outside, labels: {{app: outside}}}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: outside
      image: {image}
      command: [python3, /script/tools_script.py]
      securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
      readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 2, timeoutSeconds: 10}}
      resources: {{requests: {{cpu: 20m, memory: 64Mi}}, limits: {{memory: 256Mi}}}}
      volumeMounts: [{{name: script, mountPath: /script}}]
  volumes: [{{name: script, configMap: {{name: outside}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: outside}}
spec: {{selector: {{app: outside}}, ports: [{{port: 8080}}]}}
"""

CALL = """
import json, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080{path}", {body!r})
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""


@dataclass(frozen=True)
class Sent:
    """How requests under load went.

    Attributes:
        total: All of them.
        failed: Those not answered with 200.
        statuses: How many by status; 0 is no answer.
        outage_s: From the first failed one to the last.
        slowest_s: The longest that one of them took.
        reasons: How many by status and what was said.
    """

    total: int
    failed: int
    statuses: dict[int, int]
    outage_s: float
    slowest_s: float
    reasons: dict[str, int]


@dataclass(frozen=True)
class Outside:
    """The pod that stands for it."""

    cluster: Cluster

    def ask(self, url: str, *, key: str | None = None, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of an answer; 0 and the reason if there was none."""
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        status, text = self._call("/ask", {"url": url, "headers": headers, "body": body})
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def seen(self) -> list[dict[str, Any]]:
        """Messages that came in."""
        found: list[dict[str, Any]] = self._call("/seen")
        return found

    @contextmanager
    def load(self, alias: str, *, pause_s: float = 0.5) -> Iterator[list[Sent]]:
        """Steady load through the gateway, from its first answer on, the control; what came of it is in the list
        afterwards.
        """
        key = self.cluster.secret("api-key-endpoint")
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        body = {"model": alias, "prompt": "The", "max_tokens": 4}
        url = "http://el-gateway/v1/completions"
        self._call("/load", {"url": url, "headers": headers, "body": body, "pause_s": pause_s})
        result: list[Sent] = []
        try:
            self.cluster.wait("an answer", lambda: any(each["status"] == 200 for each in self._call("/load")))
            yield result
        finally:
            sent = self._call("/load")
            self._call("/load", {})
            failed = [each for each in sent if each["status"] != 200]
            statuses = [each["status"] for each in sent]
            outage_s = max(each["at"] for each in failed) - min(each["at"] for each in failed) if failed else 0.0
            counted = {status: statuses.count(status) for status in sorted(set(statuses))}
            reasons = Counter(f"{each['status']}: {each['why']}" for each in failed)
            slowest_s = max(each["took_s"] for each in sent)
            result.append(Sent(len(sent), len(failed), counted, outage_s, slowest_s, dict(reasons)))

    def _call(self, path: str, body: Any = None) -> Any:
        script = CALL.format(path=path, body=None if body is None else json.dumps(body).encode())
        return json.loads(self.cluster.run_in("outside", "outside", script).splitlines()[-1])


def bring_outside(cluster: Cluster) -> Outside:
    """Starts the pod and waits for it."""
    made = cluster.kubectl("create", "configmap", "outside", f"--from-file={SCRIPT}", "--dry-run=client", "-o", "yaml")
    cluster.kubectl("apply", "-f", "-", stdin=made)
    cluster.kubectl("apply", "-f", "-", stdin=MANIFEST.format(image=IMAGE))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/outside", "--timeout=180s", timeout_s=200)
    return Outside(cluster)
