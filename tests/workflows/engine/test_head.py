"""Our own Ray head, really started and stopped, in processes of its own."""

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
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.workflows.engine.conftest import until
from workflows.engine import HeadError, head
from workflows.engine.claims import start_time

REPOSITORY = Path(__file__).resolve().parents[3]

SLEEP = "import time; time.sleep(300)"
ASK = """
import json, os, sys
from pathlib import Path
import ray, ray.dag  # imported first on purpose: a user's program may
from workflows.engine import head
head.connect(Path(sys.argv[1]))
@ray.remote
def where():
    return os.getpid()
ray.get(where.remote())
print(json.dumps({"address": ray.get_runtime_context().gcs_address, "cpus": ray.cluster_resources()["CPU"]}))
"""


def ask(state: Path, **environment: str) -> dict[str, Any]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(state)],
        cwd=REPOSITORY,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_a_head_outlives_its_command_listens_on_loopback_and_is_stopped_by_its_record(tmp_path: Path) -> None:
    first = ask(tmp_path)
    try:
        found = head.find(tmp_path)
        assert found is not None
        assert (first["address"], first["cpus"]) == (found.address, 4)
        assert ask(tmp_path)["address"] == found.address
        assert stat.S_IMODE(Path(found.token_file).stat().st_mode) == 0o600
        ours = {int(pid) for pid in found.processes}
        ours |= {child.pid for pid in ours for child in psutil.Process(pid).children(recursive=True)}
        listening = [c.laddr for c in psutil.net_connections("tcp") if c.pid in ours and c.status == "LISTEN"]
        assert listening
        assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert not {address.port for address in listening} & {6379, 8265, 10001}
        assert "192" not in found.address
        assert found.dashboard == ""
        with pytest.raises(HeadError, match=r"no dashboard.*--down"):
            head.start(tmp_path, dashboard=True)
    finally:
        assert head.stop(tmp_path)
    assert head.find(tmp_path) is None
    assert not head.stop(tmp_path)
    assert not [pid for pid in ours if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


@pytest.mark.services
def test_a_head_with_a_dashboard_answers_the_jobs_interface_to_who_has_the_token(tmp_path: Path) -> None:
    up = [sys.executable, "-m", "workflows.engine", "up", "--dashboard", "--state", str(tmp_path)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(up, cwd=REPOSITORY, env=clean, capture_output=True, text=True, timeout=200, check=True)
    said = json.loads(done.stdout)
    try:
        version = urllib.request.Request(f"{said['dashboard']}/api/version")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(version, timeout=60)
        version.add_header("Authorization", f"Bearer {Path(said['token_file']).read_text()}")
        with urllib.request.urlopen(version, timeout=60) as answer:
            assert json.load(answer)["ray_version"]
        assert head.start(tmp_path, dashboard=True).address == said["address"]
    finally:
        down = [sys.executable, "-m", "workflows.engine", "down", "--state", str(tmp_path)]
        subprocess.run(down, cwd=REPOSITORY, env=clean, timeout=60, check=True)
    assert head.find(tmp_path) is None


def jobs_interface(dashboard: str, token: str) -> int:
    """Status with which the Jobs interface answers; 0 if nobody does."""
    request = urllib.request.Request(f"{dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)
    except OSError:
        return 0


@pytest.mark.services
def test_a_head_that_died_is_followed_by_one_whose_jobs_interface_and_token_are_where_they_were(
    tmp_path: Path,
) -> None:
    program = "import sys; from pathlib import Path; from workflows.engine import head; "
    start = f"{program} head.start(Path(sys.argv[1]), num_cpus=2, dashboard=True)"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    subprocess.run([sys.executable, "-c", start, str(tmp_path)], cwd=REPOSITORY, env=clean, timeout=200, check=True)
    try:
        before = head.find(tmp_path)
        assert before is not None
        token = Path(before.token_file).read_text()
        until(lambda: jobs_interface(before.dashboard, token) == 200)
        for pid in before.processes:
            os.kill(int(pid), signal.SIGKILL)
        until(lambda: jobs_interface(before.dashboard, token) == 0)
        assert head.find(tmp_path) is None

        assert ask(tmp_path)["cpus"] == 2

        after = head.find(tmp_path)
        assert after is not None
        assert (after.dashboard, Path(after.token_file).read_text()) == (before.dashboard, token)
        until(lambda: jobs_interface(before.dashboard, token) == 200)
        assert jobs_interface(before.dashboard, "0" * 64) == 403
    finally:
        head.stop(tmp_path)
    assert jobs_interface(before.dashboard, token) == 0


def test_a_record_of_before_heads_named_their_size_is_read(tmp_path: Path) -> None:
    here = {str(os.getpid()): start_time(os.getpid())}
    record = {"address": "127.0.0.1:1", "token_file": "", "temp_dir": "", "dashboard": "", "processes": here}
    (tmp_path / "ray.json").write_text(json.dumps(record))
    found = head.find(tmp_path)
    assert found is not None
    assert found.num_cpus == head.NUM_CPUS


def test_a_recorded_process_that_is_another_one_by_now_is_neither_attached_to_nor_stopped(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record = {
            "address": "127.0.0.1:1",
            "token_file": "",
            "temp_dir": str(tmp_path / "nowhere"),
            "dashboard": "",
            "processes": {str(stranger.pid): 1},
        }
        (tmp_path / "ray.json").write_text(json.dumps(record))
        assert head.find(tmp_path) is None
        assert not head.stop(tmp_path)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.communicate()


def test_the_record_of_a_dead_head_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "ray.json").write_text("{ torn")
    assert head.find(tmp_path) is None
    assert head.find(tmp_path / "missing") is None


def test_an_address_that_may_be_anybodys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(HeadError, match="auto"):
        head.connect(tmp_path)


def test_the_state_folder_is_beside_a_folder_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERLOOP_STATE", raising=False)
    assert head.state_folder(f"file://{tmp_path}/a") == tmp_path / "a" / ".state"
    assert head.state_folder(f"{tmp_path}/a") == tmp_path / "a" / ".state"
    monkeypatch.chdir(tmp_path)
    assert head.state_folder("s3://bucket") == tmp_path / "everloop-state"
    monkeypatch.setenv("EVERLOOP_STATE", str(tmp_path / "mine"))
    assert head.state_folder("s3://bucket") == tmp_path / "mine"


def test_a_process_is_known_by_its_pid_and_start(tmp_path: Path) -> None:
    from workflows.engine.claims import identity, known_dead, start_time

    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    here = identity()
    runner = {**here, "pid": process.pid, "started": start_time(process.pid)}
    assert not known_dead(runner, here)
    assert known_dead({**runner, "started": 1}, here)
    os.kill(process.pid, signal.SIGKILL)
    # A zombie counts as gone, before anybody waits for it.
    until(lambda: known_dead(runner, here))
    process.communicate()
    assert not known_dead({**runner, "host": "elsewhere"}, here)
    assert not known_dead({**runner, "boot_id": ""}, here)


def test_a_head_lives_as_long_as_what_it_cannot_do_without(tmp_path: Path) -> None:
    python, folder = Path(sys.executable), tmp_path / "session"
    scripts = ("ray/dashboard/dashboard.py", "ray/log_monitor.py", "ray/monitor.py")
    for name in scripts:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("import time\ntime.sleep(300)\n")
    commands = [[str(python), "-u", str(tmp_path / name), f"--logs-dir={folder}"] for name in scripts]
    # As Ray's own: programs of that name, the folder among their arguments.
    script = f'exec -a "$0" {python} -c "{SLEEP}" --log_dir={folder}'
    commands += [["/bin/bash", "-c", script, f"{tmp_path}/core/{name}"] for name in ("gcs_server", "raylet")]
    started = [subprocess.Popen(command) for command in commands]
    try:
        deadline = time.monotonic() + 60
        while len(found := head._processes_below(folder)) < 5 or len(head._essential(found, True)) < 3:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        dashboard, _, _, gcs, raylet = (process.pid for process in started)
        assert set(head._essential(found, True)) == {gcs, raylet, dashboard}
        assert set(head._essential(found, False)) == {gcs, raylet}
        processes = {str(pid): at for pid, at in found.items()}
        essential = {str(pid): at for pid, at in head._essential(found, False).items()}
        living = head.Head("127.0.0.1:1", "", str(folder), "", processes, essential=essential)
        of_before = head.Head("127.0.0.1:1", "", str(folder), "", processes)
        assert living.alive()
        assert of_before.alive()
        started[1].kill()
        started[1].wait()
        assert living.alive(), "Ray goes on without its log monitor"
        assert not of_before.alive()
        started[4].kill()
        started[4].wait()
        assert not living.alive()
    finally:
        for process in started:
            process.kill()
            process.wait()
