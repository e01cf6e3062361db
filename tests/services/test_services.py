"""The programs around the loop, all real: they come up, are watched, heal, are told of alerts, and go down."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from workflows.engine.claims import start_time
from workflows.engine.head import find

pytestmark = pytest.mark.services

NAMES = ("minio", "mlflow", "triggers", "reconciler", "alertmanager", "prometheus")
SET = ("--only", ",".join(NAMES))
ALWAYS = """
groups:
  - name: test
    rules:
      - alert: Always
        expr: vector(1)
        labels: {severity: warning, signal: drift, alias: tiny}
"""


@pytest.fixture(scope="module")
def site(make_site: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    rules = tmp_path_factory.mktemp("rules")
    (rules / "always.yaml").write_text(ALWAYS)
    made = make_site([rules])
    made.run("up", *SET)
    return made


def asked(url: str, *, key: str = "", body: bytes | None = None) -> Any:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        return json.load(answer)


def eventually(look: Callable[[], Any], what: str, *, within_s: float = 90.0) -> Any:
    deadline = time.monotonic() + within_s
    seen: Any = None
    while time.monotonic() < deadline:
        try:
            seen = look()
        except (OSError, urllib.error.URLError) as error:
            seen = error
        if seen and not isinstance(seen, Exception):
            return seen
        time.sleep(0.2)
    return pytest.fail(f"not within {within_s:.0f} s: {what}; last seen: {seen!r}")


def targets(site: Any) -> dict[str, str]:
    found = asked(site.url("prometheus") + "/api/v1/targets")["data"]["activeTargets"]
    return {target["labels"]["job"]: target["health"] for target in found}


def value(site: Any, query: str) -> float:
    url = site.url("prometheus") + "/api/v1/query?query=" + quote(query)
    found = asked(url)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0


def pid_of(site: Any, name: str) -> int:
    return int(site.statuses()[name]["pid"])


def test_all_of_them_are_healthy_and_measured(site: Any) -> None:
    found = site.statuses()

    assert {name: found[name]["state"] for name in NAMES} == dict.fromkeys(NAMES, "healthy")
    assert all(found[name]["memory_bytes"] > 2**20 for name in NAMES)
    assert {name: found[name]["port"] for name in NAMES} == {name: site.ports[name] for name in NAMES}


def test_a_second_up_leaves_all_as_it_is(site: Any) -> None:
    before = {name: one["pid"] for name, one in site.statuses().items()}

    assert {one["name"]: one["step"] for one in site.told("up", *SET)} == dict.fromkeys(NAMES, "left")
    assert {name: one["pid"] for name, one in site.statuses().items()} == before


def test_prometheus_sees_every_target(site: Any) -> None:
    wanted = {"prometheus", "alertmanager", "minio", "triggers", "reconciler"}

    eventually(lambda: targets(site) == dict.fromkeys(wanted, "up"), f"up: {wanted}; now {targets(site)}")


def test_a_firing_alert_reaches_the_door_as_a_signal(site: Any) -> None:
    """The door knows Alertmanager, and answers that nothing was ever released under the alias."""
    query = 'sum(everloop_door_requests_total{route="/v1/hooks/alertmanager"})'
    eventually(lambda: value(site, query) > 0, "a delivery of Alertmanager at the door")

    query = 'sum(everloop_door_requests_total{route="/v1/hooks/alertmanager", status=~"401|403"})'
    assert value(site, query) == 0


def test_the_door_refuses_who_has_another_key(site: Any) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        asked(site.url("triggers") + "/v1/hooks/alertmanager", key="elk_wrong", body=b"{}")


def test_a_new_object_is_told_to_the_door(site: Any) -> None:
    environment = site.told("env")
    put = (
        "import os, minio, io; c = minio.Minio(endpoint=os.environ['AT'], access_key=os.environ['AWS_ACCESS_KEY_ID'], "
        "secret_key=os.environ['AWS_SECRET_ACCESS_KEY'], secure=False, region='us-east-1'); "
        "c.put_object(bucket_name='incoming', object_name='pages/a.html', data=io.BytesIO(b'x'), length=1)"
    )
    subprocess.run(
        [sys.executable, "-c", put],
        env={**os.environ, **environment, "AT": f"127.0.0.1:{site.ports['minio']}"},
        check=True,
        timeout=60,
    )

    query = 'sum(everloop_door_requests_total{route="/v1/hooks/minio"})'
    eventually(lambda: value(site, query) > 0, "an event of MinIO at the door")


def test_the_loop_finds_its_storage_by_what_env_prints(site: Any) -> None:
    environment = site.told("env")
    look = (
        "import os; from workflows.log import open_store; s = open_store(os.environ['EVERLOOP_STORAGE']); "
        "s.put('probe/x', b'1'); print(s.get('probe/x').decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "1\n"
    assert "everloop-root" not in json.dumps(environment)


def test_secrets_are_for_their_owner_alone(site: Any) -> None:
    services = site.state / "services"
    kept = [services / "secrets.toml", *services.glob("*/settings.toml"), *services.glob("*/door.key")]

    assert len(kept) >= 4
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in kept} == {path.name: 0o600 for path in kept}


def test_a_service_that_dies_is_told_and_healed_by_up(site: Any) -> None:
    before = {name: one["pid"] for name, one in site.statuses().items() if name in NAMES}
    os.kill(before["prometheus"], signal.SIGKILL)
    os.kill(before["triggers"], signal.SIGKILL)

    eventually(lambda: site.statuses(ok=False)["triggers"]["state"] == "died", "the death of the door")
    assert site.statuses(ok=False)["prometheus"]["state"] == "died"
    steps = {one["name"]: one["step"] for one in site.told("up", *SET)}

    healed = {"prometheus", "triggers"}
    assert steps == {name: "started" if name in healed else "left" for name in NAMES}
    after = {name: one["pid"] for name, one in site.statuses().items() if name in NAMES}
    assert {name for name in NAMES if after[name] != before[name]} == healed


def test_the_watch_starts_again_what_dies(make_site: Callable[..., Any]) -> None:
    other = make_site()
    other.run("up", "--only", "minio,alertmanager,watch")
    before = {name: pid_of(other, name) for name in ("minio", "alertmanager")}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        found = other.statuses(ok=None)
        return all(found[name]["state"] == "healthy" and found[name]["pid"] != pid for name, pid in before.items())

    eventually(back, "both again")
    assert other.told("down")["watch"] is True
    assert not _marked(other.state)


def test_a_stranger_on_a_port_is_named_and_left_alone(make_site: Callable[..., Any]) -> None:
    other = make_site()
    listen = (
        "import socket, time; s = socket.create_server(('127.0.0.1', {})); print('on', flush=True); time.sleep(600)"
    )
    stranger = subprocess.Popen(
        [sys.executable, "-c", listen.format(other.ports["prometheus"])], stdout=subprocess.PIPE, text=True
    )
    try:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "on\n"
        done = other.run("up", "--only", "prometheus", ok=False)

        assert f"port {other.ports['prometheus']} of prometheus is taken by process {stranger.pid}" in done.stderr
        assert other.statuses()["prometheus"]["state"] == "foreign"
        other.run("down")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_down_leaves_nothing_running_and_up_begins_anew(make_site: Callable[..., Any]) -> None:
    other = make_site()
    other.run("up", "--only", "minio,alertmanager")
    pids = [one["pid"] for one in other.statuses().values() if one["pid"]]
    assert len(pids) == 2

    assert other.told("down")["minio"] is True

    assert not [pid for pid in pids if start_time(pid) is not None]
    assert not _marked(other.state)
    assert {one["state"] for one in other.statuses().values()} == {"stopped"}
    assert not any(other.told("down").values())


def _marked(state: Path) -> list[str]:
    """Processes that carry the mark of a service below a state folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"EVERLOOP_SERVICE={state}".encode() in environment:
                found.append(entry.name)
    return found


def test_runs_attach_to_the_ray_head_that_up_starts(make_site: Callable[..., Any]) -> None:
    other = make_site()
    assert other.told("up", "--only", "ray")[0]["step"] == "started"
    found = find(other.state)
    assert found is not None
    assert other.statuses()["ray"]["state"] == "healthy"
    assert other.statuses()["ray"]["memory_bytes"] > 2**20

    assert other.told("up", "--only", "ray")[0]["step"] == "left"
    assert find(other.state) == found
    # Jobs of Airflow are handed in here, and only with the token.
    with pytest.raises(urllib.error.HTTPError, match="401"):
        asked(f"{found.dashboard}/api/jobs/")
    assert asked(f"{found.dashboard}/api/jobs/", key=Path(found.token_file).read_text().strip()) == []
    assert asked_storage(other, "serving/endpoint.json")["port"] == other.ports["endpoint"]

    os.kill(max(map(int, found.essential)), signal.SIGKILL)
    eventually(lambda: other.statuses(ok=False)["ray"]["state"] == "died", "the death of the head")
    assert other.told("up", "--only", "ray")[0]["step"] == "started"
    assert other.told("down")["ray"] is True
    assert find(other.state) is None


def asked_storage(site: Any, key: str) -> Any:
    return json.loads((site.state / "storage" / key).read_text())
