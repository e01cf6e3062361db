"""`airflow/start`: what it is told, what it passes on, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.by_path import load_script

SERVICE = Path(__file__).resolve().parents[2] / "airflow" / "service.py"


@pytest.fixture(scope="module")
def service() -> ModuleType:
    return load_script(SERVICE, "airflow_service")


def environment(service: ModuleType, tmp_path: Path, **given: str) -> dict[str, str]:
    inherited = {"EVERLOOP_STATE": str(tmp_path), "PATH": "/bin", **given}
    state = tmp_path / "services" / "airflow"
    state.mkdir(parents=True, exist_ok=True)
    made = service.Airflow(service.Settings.from_environment(inherited), inherited).environment()
    return dict(made)


def connections(tmp_path: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((tmp_path / "services/airflow/connections.json").read_text())
    return found


def test_by_default_ray_is_the_recorded_head_of_the_state_folder(service: ModuleType, tmp_path: Path) -> None:
    environment(service, tmp_path)
    assert connections(tmp_path)["everloop_ray"] == {"conn_type": "http", "extra": {"head": f"{tmp_path}/ray.json"}}


def test_an_address_and_a_token_file_make_a_connection(service: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0\n")
    environment(
        service, tmp_path, EVERLOOP_RAY_URL="https://ray.example:443/", EVERLOOP_RAY_TOKEN_FILE=str(tmp_path / "token")
    )
    wanted = {"conn_type": "http", "schema": "https", "host": "ray.example", "port": 443, "password": "t0"}
    assert connections(tmp_path)["everloop_ray"] == wanted


def test_tokens_are_in_a_private_file_and_not_in_the_environment(service: ModuleType, tmp_path: Path) -> None:
    made = environment(
        service,
        tmp_path,
        EVERLOOP_DOOR_KEY="door-key",
        EVERLOOP_RAY_URL="http://127.0.0.1:1",
        EVERLOOP_RAY_TOKEN="ray-token",
    )
    assert {"door-key", "ray-token"}.isdisjoint(made.values())
    assert connections(tmp_path)["everloop_door"]["password"] == "door-key"
    for name in ("connections.json", "variables.json", "secrets.json", "passwords.json"):
        assert (tmp_path / "services/airflow" / name).stat().st_mode & 0o777 == 0o600


def test_secrets_are_made_once(service: ModuleType, tmp_path: Path) -> None:
    first, second = environment(service, tmp_path), environment(service, tmp_path)
    for key in ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY"):
        assert first[key] == second[key]
        assert len(first[key]) >= 40


def test_the_caller_may_set_anything_of_airflow(service: ModuleType, tmp_path: Path) -> None:
    made = environment(service, tmp_path, AIRFLOW__CORE__PARALLELISM="9", PYTHONPATH="/elsewhere")
    assert made["AIRFLOW__CORE__PARALLELISM"] == "9"
    assert made["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert "PYTHONPATH" not in made


def test_another_database_is_used_as_given(service: ModuleType, tmp_path: Path) -> None:
    url = "postgresql+psycopg2://airflow@127.0.0.1:5432/airflow"
    assert environment(service, tmp_path, EVERLOOP_AIRFLOW_DB=url)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == url


def test_stop_and_status_of_nothing_say_so(tmp_path: Path) -> None:
    def call(verb: str) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "EVERLOOP_STATE": str(tmp_path), "EVERLOOP_AIRFLOW_PORT": "9"}
        command = [sys.executable, str(SERVICE), verb]
        return subprocess.run(command, env=given, capture_output=True, text=True, check=False)

    stopped = call("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "nothing was running\n")
    status = call("status")
    assert status.returncode == 1
    assert status.stdout.count("not running") == 4


def test_every_requirement_is_pinned_and_hashed() -> None:
    lines = (SERVICE.parent / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert len(packages) > 100
    assert all("==" in line and line.endswith("\\") for line in packages)
