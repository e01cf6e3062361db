"""Our own Ray head answers nobody without its token, and listens on loopback alone. Each refusal has its control."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from workflows.engine import head

REPOSITORY = Path(__file__).resolve().parents[3]
PATHS = [
    "/api/version",
    "/api/jobs/",
    "/api/cluster_status",
    "/nodes?view=summary",
    "/api/v0/tasks",
    "/api/actors/kill?x=1",
]
START = """
import sys
from pathlib import Path
from typing import Any
from workflows.engine import head
head.start(Path(sys.argv[1]), dashboard=True)
"""

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[head.Head]:
    """A head with a dashboard, started by a process of its own: this one may be connected to another Ray."""
    state = tmp_path_factory.mktemp("state")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", START, str(state)], cwd=REPOSITORY, env=clean, timeout=250, check=True)
    found = head.find(state)
    assert found is not None
    yield found
    head.stop(state)


def status(own: head.Head, path: str, token: str | None) -> int:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(own.dashboard + path, headers=headers), timeout=60
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


def test_no_token_401_a_wrong_one_403_and_the_right_one_is_let_in(own: head.Head) -> None:
    right = Path(own.token_file).read_text()
    found = {path: (status(own, path, None), status(own, path, "0" * 64), status(own, path, right)) for path in PATHS}
    assert {path: codes[:2] for path, codes in found.items()} == dict.fromkeys(PATHS, (401, 403))
    assert {path for path, codes in found.items() if codes[2] in (401, 403)} == set()
    assert [found[path][2] for path in PATHS[:4]] == [200] * 4


def test_the_token_is_for_its_owner_alone(own: head.Head) -> None:
    mode = Path(own.token_file).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert len(Path(own.token_file).read_text()) == 64


def test_all_ports_are_on_loopback(own: head.Head) -> None:
    listening = {
        connection.laddr.ip
        for pid in own.processes
        for connection in psutil.Process(int(pid)).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}


def kept(own: head.Head, *metadata: tuple[str, str]) -> Any:
    """What the GCS, Ray's own registry, says to somebody who asks for the keys that it keeps."""
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    grpc: Any = importlib.import_module("grpc")
    with grpc.insecure_channel(own.address) as channel:
        stub = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel)
        request = gcs_service_pb2.InternalKVKeysRequest(prefix=b"", namespace=b"session")
        try:
            return stub.InternalKVKeys(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error


def test_the_gcs_refuses_who_has_no_token_or_a_wrong_one(own: head.Head) -> None:
    grpc: Any = importlib.import_module("grpc")
    right = Path(own.token_file).read_text()
    for metadata in ((), (("authorization", f"Bearer {'0' * 64}"),), (("authorization", right),)):
        refused = kept(own, *metadata)
        assert isinstance(refused, grpc.RpcError), metadata
        assert refused.code() == grpc.StatusCode.UNAUTHENTICATED
        assert right not in str(refused)
    assert b"session_name" in kept(own, ("authorization", f"Bearer {right}")).results


CONNECT = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
print("nodes", len(ray.nodes()))
"""


@pytest.mark.parametrize(
    ("mode", "token", "told"), [("disabled", "", ""), ("token", "0" * 64, "token"), ("token", None, "nodes 1")]
)
def test_a_driver_connects_with_the_token_alone(own: head.Head, mode: str, token: str | None, told: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    chosen = Path(own.token_file).read_text() if token is None else token
    environment = clean | {
        "RAY_AUTH_MODE": mode,
        "RAY_AUTH_TOKEN": chosen,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, own.address],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert (done.returncode == 0) == (token is None), done.stderr[-2000:]
    assert told in done.stdout + done.stderr
    assert ("nodes 1" in done.stdout) == (token is None)
