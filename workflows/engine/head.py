"""This machine's own Ray head, for runs without a cluster.

A runner connects to `RAY_ADDRESS` if that is set, else to the head recorded in `<state>/ray.json`, else it starts one
and records it.
The head listens on loopback and on free ports only, asks for a token, and outlives the command that started it, so that
what a run serves stays up. A Ray that somebody else started is never attached to and never stopped: what is stopped
are the recorded processes, by pid and start time. A head that has died is followed by one like it: who knows its Jobs
interface and its token finds both where they were.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workflows.engine.claims import start_time
from workflows.engine.errors import HeadError
from workflows.engine.processes import descendants, end

NUM_CPUS = 4
"""Logical: most steps wait rather than compute, and shares of one CPU are handed out below it."""

OBJECT_STORE_BYTES = 512 * 2**20
BROKER_ACCESS_KEY, BROKER_SECRET_KEY = "EVERLOOP_BROKER_ACCESS_KEY", "EVERLOOP_BROKER_SECRET_KEY"
_SUPERVISORS_MARK = "EVERLOOP_SERVICE"
NOT_FOR_WORKERS = frozenset(
    {
        "RAY_ADDRESS",
        "RAY_AUTH_TOKEN",
        "EVERLOOP_API_KEY",
        "EVERLOOP_AUDIT_KEY",
        BROKER_ACCESS_KEY,
        BROKER_SECRET_KEY,
        _SUPERVISORS_MARK,
    }
)
"""What a head started from here must not see, and so none of its workers. It outlives the service that starts it, so it
does not carry the mark by which a service's processes are ended with it."""

START_TIMEOUT_S = 240.0
STOP_GRACE_S = 3.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray head of our own.

    Attributes:
        address: `host:port` of its GCS.
        token_file: Holds the token that it asks for.
        temp_dir: Sockets and logs.
        dashboard: URL of its HTTP endpoint (jobs, state); empty if it was started without one.
        processes: Start time by pid, of all processes that were started for it.
        num_cpus: Logical CPUs.
        object_store_bytes: Size of its shared memory.
        essential: Those of the processes without which it is none: its registry, the node's scheduler, and what answers
            at `dashboard` if it has one. Records of before there was this field name none, and all count.
    """

    address: str
    token_file: str
    temp_dir: str
    dashboard: str
    processes: Mapping[str, int]
    num_cpus: int = NUM_CPUS
    object_store_bytes: int = OBJECT_STORE_BYTES
    essential: Mapping[str, int] = field(default_factory=dict)

    def alive(self) -> bool:
        """Whether its essential processes run: those of this start, not others that happen to have their pids.

        Ray goes on without its log monitor or its autoscaler's monitor; whoever took that for the end of the head would
        end all that it serves.
        """
        needed = self.essential or self.processes
        return bool(needed) and all(start_time(int(pid)) == at for pid, at in needed.items())


def state_folder(storage: str) -> Path:
    """Where this machine keeps what belongs to a storage but not in it: `EVERLOOP_STATE`, else `.state` in a folder
    storage, else `everloop-state` here.
    """
    given = os.environ.get("EVERLOOP_STATE")
    if given:
        return Path(given).absolute()
    if "://" not in storage:
        return Path(storage).absolute() / ".state"
    if storage.startswith("file://"):
        return Path(unquote(urlsplit(storage).path)) / ".state"
    return Path("everloop-state").absolute()


def connect(state: Path) -> None:
    """Connects this process to Ray: leaves a connection alone, takes `RAY_ADDRESS`, else finds or starts the head of
    `state`.

    Raises:
        HeadError: There is none and none could be started, or it does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _keep_interpreter()
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        found = find(state) or start(state)
        address = found.address
        _adopt(_head_environment(found.token_file))
    elif address == "auto":
        raise HeadError("RAY_ADDRESS is 'auto'", "name the address: `auto` may find anybody's Ray")
    try:
        # Workers look for modules where this process does, on top of what the head was started with.
        job_config = ray.job_config.JobConfig(_py_driver_sys_path=_import_path())
        ray.init(address=address, log_to_driver=False, configure_logging=False, job_config=job_config)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise HeadError(f"Ray at {address} does not answer", str(error)) from error


def find(state: Path) -> Head | None:
    """The recorded head, if its processes run."""
    head = _recorded(state)
    return head if head is not None and head.alive() else None


def start(
    state: Path,
    *,
    num_cpus: int | None = None,
    object_store_bytes: int | None = None,
    dashboard: bool = False,
) -> Head:
    """Starts a head and records it; finds the one that another process started at the same time.

    Args:
        state: Where it is recorded.
        num_cpus: Logical CPUs; by default those of the recorded head, if one has died.
        object_store_bytes: Size of its shared memory; by default likewise.
        dashboard: Whether it answers the Jobs and State REST interfaces (`Head.dashboard`), by which others hand in
            work. Nothing of a run needs it, and its ten processes are most of a head's memory and start. A head that
            follows one with them has them too, at the same address for the same token.

    Raises:
        HeadError: Ray did not start, or a head without the dashboard that is asked for runs already; says why.
    """
    state.mkdir(parents=True, exist_ok=True)
    with _locked(state):
        if (found := find(state)) is not None:
            if dashboard and not found.dashboard:
                raise HeadError(f"the Ray head at {found.address} has no dashboard", "stop it first: `--down`")
            return found
        before = _recorded(state)
        if before is not None:
            _end(before)
        return _start(
            state,
            num_cpus or (before.num_cpus if before else NUM_CPUS),
            object_store_bytes or (before.object_store_bytes if before else OBJECT_STORE_BYTES),
            dashboard or bool(before and before.dashboard),
            before,
        )


def stop(state: Path) -> bool:
    """Stops the recorded processes, gently and then by force. False: nothing was running."""
    if not (state / "ray.json").exists():
        return False
    with _locked(state):
        head = _recorded(state)
        (state / "ray.json").unlink(missing_ok=True)
        return head is not None and _end(head)


def _recorded(state: Path) -> Head | None:
    try:
        return Head(**json.loads((state / "ray.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        _logger.warning("%s is passed over: %s", state / "ray.json", error)
        return None


def _start(state: Path, num_cpus: int, object_store_bytes: int, dashboard: bool, before: Head | None) -> Head:
    """Starts a head; it replaces the record of the one before only once it runs."""
    token_file = state / "ray-token"
    if before is None or before.token_file != str(token_file) or not token_file.is_file():
        _write_private(token_file, secrets.token_hex(32))
    # Ray's sockets live below it, and a socket path has 107 bytes at most.
    temp_dir = Path(tempfile.mkdtemp(prefix="el-", dir="/tmp"))
    port, dashboard_port, client_port, *agent_ports = _free_ports(7)
    dashboard_port = _port_of(before) or dashboard_port
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={num_cpus}",
        f"--include-dashboard={str(dashboard).lower()}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_ports[0]}", f"--dashboard-agent-grpc-port={agent_ports[1]}",
        f"--runtime-env-agent-port={agent_ports[2]}", f"--metrics-export-port={agent_ports[3]}",
        f"--ray-client-server-port={client_port}",
        f"--object-store-memory={object_store_bytes}", f"--temp-dir={temp_dir}", "--disable-usage-stats",
    ]  # fmt: skip
    log = state / "ray-start.log"
    with log.open("wb") as output:
        try:
            subprocess.run(
                command,
                env=_environment(token_file),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                timeout=START_TIMEOUT_S,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
            end(_processes_below(temp_dir), STOP_GRACE_S, STOP_GRACE_S)
            raise HeadError(f"Ray did not start ({error})", log.read_text(errors="replace")[-2000:]) from error
    head = Head(
        f"127.0.0.1:{port}",
        str(token_file),
        str(temp_dir),
        f"http://127.0.0.1:{dashboard_port}" if dashboard else "",
        {str(pid): at for pid, at in _processes_below(temp_dir).items()},
        num_cpus,
        object_store_bytes,
        {str(pid): at for pid, at in _essential(_processes_below(temp_dir), dashboard).items()},
    )
    temporary = state / "ray.json.new"
    _write_private(temporary, json.dumps(asdict(head), indent=2))
    temporary.replace(state / "ray.json")
    return head


def _environment(token_file: Path) -> dict[str, str]:
    """What the head's processes, and so all its workers, see: the project on the import path, the token, no address
    of another Ray.
    """
    environment = {key: value for key, value in os.environ.items() if key not in NOT_FOR_WORKERS}
    return environment | {
        **_head_environment(str(token_file)),
        "PYTHONPATH": os.pathsep.join(_import_path()),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
    }


def _import_path() -> list[str]:
    """The folders from which this process imports what is not installed."""
    folders = [str(Path(entry or ".").resolve()) for entry in sys.path if "site-packages" not in entry]
    own = (sys.base_prefix, sys.prefix)
    return list(dict.fromkeys(folder for folder in folders if Path(folder).is_dir() and not folder.startswith(own)))


def _head_environment(token_file: str) -> dict[str, str]:
    """What the head and all who talk to it must agree on.

    Ray binds to loopback alone only where it takes clusters to be unsupported; on Linux the switch named after two
    other systems says so.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": token_file,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _keep_interpreter() -> None:
    """Has workers run in this interpreter and folder also under `uv run`, where Ray would give each one a copy of the
    project and an environment of its own.
    """
    from ray._private import ray_constants

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def _adopt(environment: Mapping[str, str]) -> None:
    """Sets the environment, also for a Ray that is imported already: it read its environment then."""
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ |= environment
    if "ray" in sys.modules:
        from ray._private import ray_constants
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled

        ray_constants.ENABLE_RAY_CLUSTER = False
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def _processes_below(temp_dir: Path) -> dict[int, int]:
    """Ray's own processes that name the folder on their command line; workers end with their raylet."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        at = start_time(int(folder.name))
        if str(temp_dir).encode() in command and at is not None and int(folder.name) != os.getpid():
            found[int(folder.name)] = at
    return found


def _essential(processes: Mapping[int, int], dashboard: bool) -> dict[int, int]:
    """Of Ray's processes those without which there is no head, by the programs that they run."""
    found: dict[str, int] = {}
    for pid in sorted(processes):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        program = next((word for word in words if word.endswith("/dashboard/dashboard.py")), words[0])
        found.setdefault(program.rpartition("/")[2], pid)  # the first one started; its children look like it
    wanted = ("gcs_server", "raylet", *(["dashboard.py"] if dashboard else []))
    return {found[name]: processes[found[name]] for name in wanted if name in found}


def _end(head: Head) -> bool:
    # Ray's agents restart under other pids, so those that name the head's own folder belong to it too; so do workers
    # below them.
    own = {int(pid): at for pid, at in head.processes.items() if start_time(int(pid)) == at}
    own |= _processes_below(Path(head.temp_dir))
    own |= descendants(own)
    end(own, STOP_GRACE_S, STOP_GRACE_S)
    if head.temp_dir.startswith("/tmp/el-"):  # noqa: S108 - only what `_start` made
        shutil.rmtree(head.temp_dir, ignore_errors=True)
    return bool(own)


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / "ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    path.chmod(0o600)


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def _port_of(before: Head | None) -> int | None:
    """The port at which others look for the Jobs interface of the head before, unless somebody else has it by now."""
    port = urlsplit(before.dashboard).port if before else None
    if port is None:
        return None
    with socket.socket() as tried:
        # Connections of the dead head may linger; Ray takes the port all the same.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return None
    return port
