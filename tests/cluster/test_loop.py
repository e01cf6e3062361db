"""One release, one run, one lost head, one lost worker. The tests follow each other in the order of this file."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster.asking import STEPS, ask, attempts, completion, finished, run_status, submit, succeeded
from tests.cluster.conftest import CHART, Cluster
from tests.cluster.outside import bring_outside

pytestmark = pytest.mark.cluster


def test_helm_test_passes(installed: Cluster) -> None:
    done = installed.helm("test", "el")
    assert done.returncode == 0, done.stdout + done.stderr


def test_ray_asks_for_a_token(installed: Cluster) -> None:
    url = "http://el-ray-head-svc:8265/api/jobs/"
    assert ask(installed, url)[0] == 401
    assert ask(installed, url, key="0" * 64)[0] == 403
    assert ask(installed, url, key=installed.secret("auth_token"))[0] == 200


def test_a_run_goes_from_pages_to_an_answer_through_the_gateway(installed: Cluster) -> None:
    began = time.monotonic()
    submit(installed, "first")
    run = installed.wait("the run has succeeded", lambda: finished(installed, "first"))
    print(f"a run of nano took {time.monotonic() - began:.0f} s")
    assert {step["name"] for step in run["steps"]} >= STEPS
    status, answer = completion(installed, installed.secret("api-key-endpoint"))
    assert status == 200, answer
    assert answer["usage"]["completion_tokens"] >= 1
    assert completion(installed, None)[0] == 401
    assert completion(installed, "elk_wrong")[0] == 401


def test_every_step_of_the_run_was_given_credentials_of_its_own(installed: Cluster) -> None:
    script = (
        "import json, os\nfrom workflows.log import open_store, stored_records\n"
        "store = open_store(os.environ['EVERLOOP_STORAGE'])\n"
        "logs = {'/'.join(info.key.split('/')[:2]) for info in store.list('audit')}\n"
        "entries = [e for log in logs for record in stored_records(store, log, 0) for e in record.data['entries']]\n"
        "print(json.dumps(sorted({e['principal'] for e in entries if e.get('action') == 'write_area'})))"
    )
    asked = json.loads(installed.run_in("deploy/el-triggers", "triggers", script).splitlines()[-1])
    steps = {"scrape", "validate", "version", "tune", "train", "evaluate", "monitor"}
    assert {f"Service::first/{step}" for step in steps} <= set(asked)


def test_the_work_was_spread_over_head_and_worker(installed: Cluster) -> None:
    script = "import ray; ray.init(address='auto', logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    assert int(installed.run_in(installed.head(), "ray-head", script).split()[-1]) == 2


def test_mlflow_knows_the_model(installed: Cluster) -> None:
    url = "http://el-mlflow:5000/api/2.0/mlflow/registered-models/search"
    status, answer = ask(installed, url)
    assert status == 200
    assert "nano" in {model["name"] for model in answer["registered_models"]}


def test_prometheus_scrapes_head_and_worker(installed: Cluster) -> None:
    def scraped() -> bool:
        _, answer = ask(installed, "http://el-prometheus:9090/api/v1/query?query=up")
        up = {sample["metric"]["job"]: sample["value"][1] for sample in answer["data"]["result"]}
        return up.get("ray-head") == "1" and up.get("ray-workers") == "1" and up.get("triggers") == "1"

    assert installed.wait("Prometheus has scraped", scraped, timeout_s=180)


def test_after_a_lost_head_the_endpoint_comes_back_by_itself(installed: Cluster) -> None:
    def endpoint_of(head: str) -> int:
        # Through the gateway a replica may answer that lives on in what is left of the old cluster.
        address = installed.get("pod", head)["status"].get("podIP")
        assert address, "it is not on a node yet"
        url = f"http://{address}:8000/v1/completions"
        return ask(installed, url, body={"model": "nano", "prompt": "The", "max_tokens": 4})[0]

    key = installed.secret("api-key-endpoint")
    assert completion(installed, key)[0] == 200, "the control"
    lost = installed.head()
    installed.kubectl("delete", "pod", lost, "--grace-period=0", "--force")
    began = time.monotonic()
    installed.wait("another head", lambda: installed.head() != lost)
    installed.wait("the endpoint is there again", lambda: endpoint_of(installed.head()) == 200)
    installed.wait("it answers", lambda: completion(installed, key)[0] == 200)
    print(f"the endpoint was there again {time.monotonic() - began:.0f} s after its head was lost")


def test_a_run_goes_on_after_its_head_and_its_worker_were_lost(installed: Cluster) -> None:
    installed.wait("all pods are ready", installed.all_ready)
    submit(installed, "second", "--set", "scrape.name=again")
    installed.wait("it has begun", lambda: run_status(installed, "second")["status"] == "running")
    installed.wait(
        "a step is done", lambda: any(s["status"] == "succeeded" for s in run_status(installed, "second")["steps"])
    )
    before = run_status(installed, "second")
    done = succeeded(before)
    installed.kubectl("delete", "pod", installed.head(), "--grace-period=0", "--force")
    installed.kubectl("delete", "pod", "-l", "ray.io/node-type=worker", "--grace-period=0", "--force")
    run = installed.wait("the reconciler has brought it to its end", lambda: finished(installed, "second"))
    for name in done:
        assert attempts(run)[name] == attempts(before)[name], f"{name} was recorded, and ran again"


def test_what_pods_that_are_gone_wrote_into_the_audit_log_is_verified_with_the_key_of_the_release(
    installed: Cluster,
) -> None:
    in_door = ("exec", "deploy/el-triggers", "-c", "triggers", "--")
    access = "python3 -m workflows.access"
    key = installed.kubectl(*in_door, "sh", "-c", f"{access} public-key").strip()
    verify = f'{access} verify --storage "$EVERLOOP_STORAGE" --key {key}'
    said = installed.kubectl(*in_door, "sh", "-c", verify)
    assert said.rstrip().endswith("checkpoints: whole"), said
    gone = [line for line in said.splitlines() if "el-ray-head" in line and installed.head() not in line]
    assert [line for line in gone if "\t0 under a checkpoint" not in line], said


def test_an_upgrade_and_the_way_back_lose_no_request(installed: Cluster) -> None:
    outside = bring_outside(installed)
    before, served = installed.secret("auth_token"), installed.head()
    with outside.load("nano") as sent:
        for arguments in (
            ("upgrade", "el", str(CHART), "--reset-then-reuse-values", "--set", "gateway.requestsPerSecond=50"),
            ("rollback", "el", "1"),
        ):
            done = installed.helm(*arguments)
            assert done.returncode == 0, done.stderr
            for part in ("gateway", "triggers"):
                status = ("rollout", "status", f"deploy/el-{part}", "--timeout=300s")
                installed.kubectl(*status, timeout_s=320)
            installed.wait("the old pods are gone", lambda: len(gateways(installed)) == 1, timeout_s=300)
    print(f"upgrade and rollback: {sent[0]}")
    assert installed.secret("auth_token") == before
    assert installed.head() == served, "Ray was left alone"
    assert sent[0].total >= 20, "the control: there was load"
    assert sent[0].failed == 0
    installed.kubectl("delete", "pod/outside", "service/outside", "configmap/outside", "--grace-period=0", "--force")


def gateways(cluster: Cluster) -> list[str]:
    pods = cluster.get("pods", "-l", "app.kubernetes.io/component=gateway")["items"]
    return [pod["metadata"]["name"] for pod in pods]


def test_uninstall_leaves_claims_and_secret_only(installed: Cluster) -> None:
    assert installed.helm("uninstall", "el", "--wait", "--timeout", "5m").returncode == 0

    def rest() -> set[str]:
        kinds = "all,configmap,secret,pvc,networkpolicy,pdb,raycluster,serviceaccount,role,rolebinding"
        found = installed.get(kinds)["items"]
        return {f"{each['kind']}/{each['metadata']['name']}" for each in found} - {
            "ConfigMap/kube-root-ca.crt",
            "ServiceAccount/default",
        }

    left = {f"PersistentVolumeClaim/el-{part}" for part in ("minio", "mlflow", "prometheus")} | {"Secret/el-secrets"}
    installed.wait("only what is kept is left", lambda: rest() == left, timeout_s=240)
