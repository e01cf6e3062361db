"""What the tests ask of a release, from within the cluster."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.conftest import Cluster

STEPS = {"scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor"}

ASK = """
import json, os, urllib.error, urllib.request
request = urllib.request.Request({url!r}, {body!r}, {headers!r}, method={method!r})
try:
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(json.dumps([answer.status, json.loads(answer.read() or b"null")]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, None]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


def ask(cluster: Cluster, url: str, *, key: str | None = None, body: Any = None) -> tuple[int, Any]:
    """Status and body of an answer, asked from within the cluster; 0 if there was none."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    encoded = None if body is None else json.dumps(body).encode()
    script = ASK.format(url=url, body=encoded, headers=headers, method="GET" if body is None else "POST")
    status, answer = json.loads(cluster.run_in("deploy/el-triggers", "triggers", script).splitlines()[-1])
    return status, answer


def submit(cluster: Cluster, run_id: str, *more: str) -> None:
    """Submits a run as a Ray Job; the id of the run is the id of the job."""
    entrypoint = " ".join(["/etc/everloop/python -m workflows.run --recipe nano --json --run-id", run_id, *more])
    body = {"entrypoint": entrypoint, "submission_id": run_id}
    status, answer = ask(cluster, "http://el-ray-head-svc:8265/api/jobs/", key=cluster.secret("auth_token"), body=body)
    assert status == 200, answer


def run_status(cluster: Cluster, run_id: str) -> dict[str, Any]:
    status, answer = ask(cluster, f"http://el-triggers:8400/v1/runs/{run_id}", key=cluster.secret("api-key-admin"))
    assert status == 200, (status, answer)
    found: dict[str, Any] = answer
    return found


def finished(cluster: Cluster, run_id: str) -> dict[str, Any] | None:
    found = run_status(cluster, run_id)
    assert found["status"] not in {"cancelled", "dead"}, found
    return found if found["status"] == "succeeded" else None


def completion(cluster: Cluster, key: str | None) -> tuple[int, Any]:
    body = {"model": "nano", "prompt": "The", "max_tokens": 4}
    return ask(cluster, "http://el-gateway/v1/completions", key=key, body=body)


def succeeded(run: dict[str, Any]) -> set[str]:
    return {step["name"] for step in run["steps"] if step["status"] == "succeeded"}


def attempts(run: dict[str, Any]) -> dict[str, int]:
    return {step["name"]: step["attempts"] for step in run["steps"]}
