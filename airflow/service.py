"""Installs Airflow into an environment of its own, and starts, stops and watches its four components.

`start` is idempotent: it installs what is missing, starts what does not run, and waits until all of it is well.
Everything listens on loopback. Secrets are made once and only their owner can read them. `airflow/README.md` lists what
may be set by the environment; any `AIRFLOW__SECTION__KEY` set by the caller wins over what is set here.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""Not `airflow standalone`: on SIGTERM it leaves its children, and its log servers listen on every address."""

HEALTH_KEYS = ("metadatabase", "scheduler", "dag_processor", "triggerer")
START_TIMEOUT_S = 180.0
STOP_GRACE_S = 25.0


class ServiceError(Exception):
    """Airflow could not be brought up; the message names the log."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `airflow/start` is told by the environment.

    Attributes:
        state: Folder of database, logs, secrets and process records.
        venv: Folder of the environment.
        port: Of the API server, on loopback.
        database: SQLAlchemy URL; SQLite below `state` by default.
        ray: The connection `everloop_ray`, as Airflow's fields.
        door: The connection `everloop_door`.
        variables: Airflow Variables for the DAGs.
    """

    state: Path
    venv: Path
    port: int
    database: str
    ray: Mapping[str, Any]
    door: Mapping[str, Any]
    variables: Mapping[str, str]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads the settings; nothing is created."""
        loop_state = Path(environment.get("EVERLOOP_STATE", "everloop-state")).absolute()
        state = Path(environment.get("EVERLOOP_AIRFLOW_STATE", loop_state / "services" / "airflow")).absolute()
        names = ("EVERLOOP_RECIPE", "EVERLOOP_OVERRIDES", "EVERLOOP_STORAGE", "EVERLOOP_PYTHON")
        variables = {name.lower(): environment[name] for name in names if environment.get(name)}
        variables.setdefault("everloop_storage", f"file://{loop_state}/storage")
        variables.setdefault("everloop_python", sys.executable)
        return cls(
            state=state,
            venv=Path(environment.get("EVERLOOP_AIRFLOW_VENV", state / "venv")).absolute(),
            port=int(environment.get("EVERLOOP_AIRFLOW_PORT", "8080")),
            database=environment.get("EVERLOOP_AIRFLOW_DB", f"sqlite:///{state}/airflow.db"),
            ray=_ray_connection(environment, loop_state),
            door=_door_connection(environment),
            variables=variables,
        )


def _ray_connection(environment: Mapping[str, str], loop_state: Path) -> dict[str, Any]:
    url = environment.get("EVERLOOP_RAY_URL")
    if not url:
        head = Path(environment.get("EVERLOOP_RAY_HEAD", loop_state / "ray.json")).absolute()
        return {"conn_type": "http", "extra": {"head": str(head)}}
    return _connection(url, _secret(environment, "EVERLOOP_RAY_TOKEN"))


def _door_connection(environment: Mapping[str, str]) -> dict[str, Any]:
    return _connection(
        environment.get("EVERLOOP_DOOR_URL", "http://127.0.0.1:8400"), _secret(environment, "EVERLOOP_DOOR_KEY")
    )


def _connection(url: str, password: str) -> dict[str, Any]:
    scheme, _, rest = url.partition("://")
    host, _, port = rest.rstrip("/").partition(":")
    made = {"conn_type": "http", "schema": scheme, "host": host, "password": password}
    return {**made, "port": int(port)} if port else made


def _secret(environment: Mapping[str, str], name: str) -> str:
    """The secret itself, or the content of the file that `<name>_FILE` names."""
    path = environment.get(f"{name}_FILE")
    return Path(path).read_text(encoding="utf-8").strip() if path else environment.get(name, "")


class Airflow:
    """One Airflow on this machine."""

    def __init__(self, settings: Settings, inherited: Mapping[str, str]) -> None:
        self._settings, self._inherited = settings, inherited
        self._state = settings.state
        self._record = settings.state / "processes.json"

    def install(self) -> None:
        """Makes the environment, if it is not there."""
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._state / "lock"):
            self._install()

    def start(self) -> None:
        """Brings everything up and waits until it is well.

        Raises:
            ServiceError: It did not come up; names the log.
        """
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(self._state / "lock"):
            self._install()
            environment = self.environment()
            running = self._running()
            if not running:
                self._run(["db", "migrate"], environment, "migrate.log")
            for name, arguments in COMPONENTS.items():
                if name not in running:
                    self._spawn(name, arguments, environment)
            self._wait_until_well()

    def stop(self) -> bool:
        """Stops all components, gently and then by force. False: nothing was running."""
        if not self._record.exists():
            return False
        with _locked(self._state / "lock"):
            running = self._running()
            for number, grace_s in ((signal.SIGTERM, STOP_GRACE_S), (signal.SIGKILL, 5.0)):
                for pid in running.values():
                    _signal_group(pid, number)
                deadline = time.monotonic() + grace_s
                while time.monotonic() < deadline and any(_group(pid) for pid in running.values()):
                    time.sleep(0.1)
            self._record.unlink(missing_ok=True)
            return bool(running)

    def status(self) -> dict[str, str]:
        """Each component with its process, and what Airflow says of itself."""
        running = self._running()
        told = {name: f"pid {running[name]}" if name in running else "not running" for name in COMPONENTS}
        return told | {f"health of {key}": value for key, value in self._health().items()}

    def environment(self) -> dict[str, str]:
        """What every Airflow process sees. Secrets stand here and in files of the state folder only."""
        settings, made = self._settings, self._secrets()
        base = f"http://127.0.0.1:{settings.port}"
        ours = {
            "AIRFLOW_HOME": str(self._state),
            "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(HERE / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "everloop.executor.FailFastLocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": made["fernet_key"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._state / "passwords.json"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": settings.database,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(settings.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": base,
            "AIRFLOW__API_AUTH__JWT_SECRET": made["jwt_secret"],
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
            # Connections and Variables in one file of each, read at each look-up: a new key needs no restart.
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(
                {
                    "connections_file_path": str(self._state / "connections.json"),
                    "variables_file_path": str(self._state / "variables.json"),
                }
            ),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        _write_private(self._state / "connections.json", {"everloop_ray": settings.ray, "everloop_door": settings.door})
        _write_private(self._state / "variables.json", settings.variables)
        # The neighbours' secrets reach Airflow by the connections file, not by its environment.
        kept = {k: v for k, v in self._inherited.items() if k not in ("EVERLOOP_RAY_TOKEN", "EVERLOOP_DOOR_KEY")}
        path = f"{self._settings.venv / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
        dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
        kept = {key: value for key, value in kept.items() if key not in dropped}
        overrides = {key: value for key, value in kept.items() if key.startswith("AIRFLOW__")}
        return {**kept, **ours, **overrides, "PATH": path}

    def _secrets(self) -> dict[str, str]:
        path = self._state / "secrets.json"
        if not path.exists():
            made = {
                "jwt_secret": secrets.token_urlsafe(48),
                "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                "admin_password": self._inherited.get("EVERLOOP_AIRFLOW_PASSWORD") or secrets.token_urlsafe(18),
            }
            _write_private(path, made)
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        _write_private(self._state / "passwords.json", {"admin": found["admin_password"]})
        return found

    def _install(self) -> None:
        """Installs the pinned set, unless this very set is there already."""
        requirements = HERE / "requirements.txt"
        wanted = f"{sys.version_info[:2]} {hashlib.sha256(requirements.read_bytes()).hexdigest()}"
        marker = self._settings.venv / ".installed"
        if marker.exists() and marker.read_text(encoding="utf-8") == wanted:
            return
        uv = shutil.which("uv") or str(HERE.parent / ".tools" / "bin" / "uv")
        if not Path(uv).exists():
            raise ServiceError("uv is not on PATH; `make setup` brings it to .tools/bin/uv")
        python = str(self._settings.venv / "bin" / "python")
        environment = {**self._inherited, "UV_PYTHON_DOWNLOADS": "never"}
        environment.pop("VIRTUAL_ENV", None)
        for command in (
            [uv, "venv", "-q", "--clear", "--python", sys.executable, str(self._settings.venv)],
            # Without byte code each start takes two to three times as long.
            [uv, "pip", "install", "-q", "--compile-bytecode", "--require-hashes", "--python", python,
             "-r", str(requirements)],
        ):  # fmt: skip
            _checked(command, environment, self._state / "install.log")
        marker.write_text(wanted, encoding="utf-8")

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
        _checked([str(self._settings.venv / "bin" / "airflow"), *arguments], environment, self._state / log)

    def _spawn(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        recorded = self._recorded()
        if (before := recorded.get(name)) is not None:
            # The leader is gone; what it had started and left must not serve beside its successor.
            _signal_group(before["pid"], signal.SIGKILL)
        with (self._state / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(self._settings.venv / "bin" / "airflow"), *arguments],
                env=dict(environment),
                cwd=self._state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        recorded[name] = {"pid": process.pid, "started": _start_time(process.pid) or 0}
        _write_private(self._record, recorded)

    def _recorded(self) -> dict[str, dict[str, int]]:
        try:
            found: dict[str, dict[str, int]] = json.loads(self._record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def _running(self) -> dict[str, int]:
        """Pid by component, of those processes that we started and that still run."""
        found = self._recorded().items()
        return {name: entry["pid"] for name, entry in found if _start_time(entry["pid"]) == entry["started"]}

    def _wait_until_well(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            gone = set(COMPONENTS) - set(self._running())
            if gone:
                raise ServiceError(f"{', '.join(sorted(gone))} ended at once: see {self._state}/{min(gone)}.log")
            if all(value == "healthy" for value in self._health().values()):
                return
            time.sleep(0.25)
        raise ServiceError(f"not well after {START_TIMEOUT_S:.0f} s ({self._health()}): see {self._state}/*.log")

    def _health(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._settings.port}/api/v2/monitor/health"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=5) as answer:
                told = json.load(answer)
        except (OSError, ValueError):
            return dict.fromkeys(HEALTH_KEYS, "no answer")
        return {key: str((told.get(key) or {}).get("status")) for key in HEALTH_KEYS}


def _checked(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as output:
        done = subprocess.run(command, env=dict(environment), stdout=output, stderr=output, check=False)
    if done.returncode:
        raise ServiceError(f"{' '.join(command[:3])} ended with {done.returncode}: see {log}")


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the third on; empty for a process that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def _start_time(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _group(pid: int) -> list[int]:
    """The living processes of the session that this pid led; a session's number is not used anew while one lives."""
    found = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [number for number in found if (fields := _stat(number)) and int(fields[3]) == pid]


def _signal_group(pid: int, number: signal.Signals) -> None:
    """A component's children lead groups of their own, so the session is what counts."""
    for member in _group(pid):
        if number == signal.SIGKILL or member == pid:
            with suppress(ProcessLookupError):
                os.kill(member, number)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_private(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="airflow/start", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "verb", choices=["install", "start", "stop", "status", "env"], help="env runs a command in its settings"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    settings = Settings.from_environment(os.environ)
    airflow = Airflow(settings, os.environ)
    try:
        match arguments.verb:
            case "install":
                airflow.install()
            case "start":
                airflow.start()
                _say(f"Airflow answers at http://127.0.0.1:{settings.port}")
                _say(f"user admin, password in {settings.state}/passwords.json")
            case "stop":
                _say("stopped" if airflow.stop() else "nothing was running")
            case "status":
                told = airflow.status()
                _say("\n".join(f"{name:<24} {value}" for name, value in told.items()))
                return 0 if all("pid" in v or v == "healthy" for v in told.values()) else 1
            case "env":
                environment = airflow.environment()
                program = shutil.which(arguments.command[0], path=environment["PATH"]) or arguments.command[0]
                os.execve(program, arguments.command, environment)  # noqa: S606 - no shell is meant
    except (ServiceError, urllib.error.URLError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
