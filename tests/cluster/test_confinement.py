"""What the pods of a running release may do. Each denial has a control that is allowed."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster

LOOK = """
import json, os, pathlib
lines = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
options = {path: given.split(",") for _, path, _, given, *_ in lines}
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines() if ":" in line)
print(json.dumps({
    "uid": os.getuid(), "capabilities": int(status["CapEff"], 16), "no_new_privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]), "root": "ro" in options["/"], "tmp": "rw" in options.get("/tmp", ()),
    "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"),
}))
"""

TRESPASS = """
import json, os
os.environ.update({environ!r})
from workflows.access.credentials import EVERY_STEP, CredentialBroker, Need, session_policy
from workflows.access.sts import KeyPair, assume_role
from workflows.log import StoreError, open_store
storage = os.environ["EVERLOOP_STORAGE"]
whole = open_store(storage)
for key in {others!r} + {own!r}:
    whole.put(key, b"1")
policy = session_policy("everloop", "loop/", EVERY_STEP, run="r1", path="train")
keys = KeyPair(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
given = assume_role("http://el-minio:9000", keys, policy, duration_s=900)
step = open_store(storage, credentials=lambda: {{
    "access_key_id": given.access_key, "secret_access_key": given.secret_key, "token": given.session_token,
    "expires_at": None}})
told = {{}}
for key in {others!r} + {own!r}:
    for what, call in (("read", lambda: step.get(key)), ("write", lambda: step.put(key, b"2"))):
        try:
            call()
            told[f"{{what}} {{key}}"] = "done"
        except StoreError as error:
            told[f"{{what}} {{key}}"] = type(error).__name__
for key in {others!r} + {own!r}:
    whole.delete(key)
print(json.dumps(told))
"""


def containers(cluster: Cluster) -> list[tuple[str, str]]:
    """Pod and container of all that runs."""
    pods = cluster.get("pods", "-l", "app.kubernetes.io/instance=el", "--field-selector=status.phase=Running")["items"]
    return [(pod["metadata"]["name"], each["name"]) for pod in pods for each in pod["spec"]["containers"]]


def test_no_container_is_root_and_none_can_change_its_image(installed: Cluster) -> None:
    looked = 0
    for pod, container in containers(installed):
        found = json.loads(installed.run_in(pod, container, LOOK).splitlines()[-1])
        at = f"{pod}/{container}"
        assert found["uid"] == 65532, at
        assert (found["capabilities"], found["no_new_privileges"], found["seccomp"]) == (0, 1, 2), at
        assert found["root"] is True, at
        assert found["tmp"] is True, f"{at}: the control"
        assert found["token"] is False, at
        looked += 1
    assert looked >= 9


def test_a_pod_that_asks_for_a_token_gets_one(installed: Cluster) -> None:
    """The control: what is denied to the pods of the release is there for those who ask."""
    pod = installed.get("pods", "-l", "app.kubernetes.io/component=triggers")["items"][0]
    spec = {key: pod["spec"][key] for key in ("securityContext",)} | {"automountServiceAccountToken": True}
    main = {key: pod["spec"]["containers"][0][key] for key in ("image", "securityContext")}
    spec["containers"] = [main | {"name": "main", "command": ["sleep", "600"]}]
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "with-token"}, "spec": spec}
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    try:
        installed.kubectl("wait", "--for=condition=Ready", "pod/with-token", "--timeout=120s")
        assert json.loads(installed.run_in("with-token", "main", LOOK).splitlines()[-1])["token"] is True
    finally:
        installed.kubectl("delete", "pod", "with-token", "--grace-period=0", "--force")


def test_credentials_of_a_step_open_its_own_prefixes_and_no_others(installed: Cluster) -> None:
    others = ["trespass/1", "releases/prod/00000000000000000009.json", "runs/r2/steps/train/1", "audit/x/1"]
    own = ["runs/r1/steps/train/1"]
    script = TRESPASS.format(environ={}, others=others, own=own)
    told = json.loads(installed.run_in("deploy/el-triggers", "triggers", script).splitlines()[-1])
    assert {told[f"{what} {key}"] for what in ("read", "write") for key in others} == {"StoreDenied"}
    assert {told[f"{what} {key}"] for what in ("read", "write") for key in own} == {"done"}


def test_the_loop_does_not_hold_the_root_keys_of_the_storage(installed: Cluster) -> None:
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    root = installed.secret("minio-root-password")
    for pod, container in containers(installed):
        environ = installed.run_in(pod, container, script)
        assert (root in environ) == pod.startswith("el-minio-"), f"{pod}/{container}"
        assert "EVERLOOP_BROKER" not in environ or container == "reconciler", f"{pod}/{container}"
