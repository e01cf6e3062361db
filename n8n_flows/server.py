"""Runs n8n as a background process of this machine: environment, pid file, start, stop, status."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from n8n_flows.errors import StartFailed
from n8n_flows.install import Installation
from n8n_flows.settings import Settings

_NODES = Path(__file__).resolve().parent / "nodes"
_GUARD = Path(__file__).resolve().parent / "hooks" / "guard_metrics.js"
_PAYLOAD_MIB = 1  # as the loop's own door
_MODULES_OFF = (
    "instance-ai,agents,mcp,mcp-registry,chat-hub,workflow-builder,oauth-server,community-packages,insights,"
    "quick-connect"
)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for a later one with the same id."""

    pid: int
    started_at: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The living process with this id."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else cls(pid, int(fields[19]))

    @property
    def is_alive(self) -> bool:
        """Whether it is still this one that runs."""
        return Process.of(self.pid) == self


class N8n:
    """n8n on one state folder."""

    def __init__(self, settings: Settings, installed: Installation) -> None:
        self.settings = settings
        self.installed = installed
        self.state = settings.state
        self.log = self.state / "n8n.log"
        self._pid_file = self.state / "n8n.pid"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One start or stop at a time."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.state / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def secret(self, name: str, given: str = "") -> str:
        """What was configured, else what was generated into the state folder, once."""
        if given:
            return given
        path = self.state / name
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24) + "aA1")
        return path.read_text()

    def environment(self) -> dict[str, str]:
        """All that n8n reads. Of the caller's environment it gets a supervisor's mark and nothing else."""
        server, people = self.settings.server, self.settings.people
        key = self.state / "encryption_key"
        if server.encryption_key or not key.exists():
            write_private(key, server.encryption_key or secrets.token_hex(32))
        environment = {
            "PATH": f"{self.installed.node.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.state),
            **{name: os.environ[name] for name in ("EVERLOOP_SERVICE",) if name in os.environ},
            "NODE_ENV": "production",  # else errors carry stack traces with paths
            "N8N_USER_FOLDER": str(self.state),
            "N8N_LISTEN_ADDRESS": server.host,
            "N8N_HOST": server.host,
            "N8N_PORT": str(server.port),
            "N8N_WEBHOOK_URL": (server.public_url or server.url).rstrip("/") + "/",
            "N8N_SECURE_COOKIE": str(server.public_url.startswith("https:")).lower(),
            "N8N_PAYLOAD_SIZE_MAX": str(_PAYLOAD_MIB),
            "N8N_ENCRYPTION_KEY_FILE": str(key),
            "N8N_ENFORCE_SETTINGS_FILE_PERMISSIONS": "true",
            "N8N_CUSTOM_EXTENSIONS": str(_NODES),
            "GENERIC_TIMEZONE": server.timezone,
            # Nothing leaves the machine but what the flows send.
            **dict.fromkeys(
                (
                    "N8N_DIAGNOSTICS_ENABLED",
                    "N8N_VERSION_NOTIFICATIONS_ENABLED",
                    "N8N_VERSION_NOTIFICATIONS_WHATS_NEW_ENABLED",
                    "N8N_TEMPLATES_ENABLED",
                    "N8N_DYNAMIC_BANNERS_ENABLED",
                    "N8N_HIRING_BANNER_ENABLED",
                    "N8N_PERSONALIZATION_ENABLED",
                    "N8N_COMMUNITY_PACKAGES_ENABLED",
                    "N8N_AI_ENABLED",
                    "SCARF_ANALYTICS",
                ),
                "false",
            ),
            "N8N_PUBLIC_API_DISABLED": "true",
            "N8N_DISABLED_MODULES": _MODULES_OFF,
            # The flows reach the configured private ranges and public addresses, and nothing else.
            "N8N_SSRF_PROTECTION_ENABLED": "true",
            "N8N_SSRF_ALLOWED_IP_RANGES": ",".join(server.allowed_ranges),
            "N8N_BLOCK_ENV_ACCESS_IN_NODE": "true",
            "NODES_EXCLUDE": json.dumps(
                ["n8n-nodes-base.executeCommand", "n8n-nodes-base.localFileTrigger", "n8n-nodes-base.ssh"]
            ),
            "N8N_METRICS": str(server.has_metrics).lower(),
            "N8N_RESTRICT_FILE_ACCESS_TO": str(self.state / "files"),
            "N8N_RUNNERS_BROKER_PORT": str(server.runners_port),
            "N8N_PYTHON_ENABLED": "false",
            # Expressions run in isolates; these halve the latency of a webhook and keep the isolation.
            "N8N_EXPRESSION_ENGINE_POOL_SIZE": "4",
            "N8N_EXPRESSION_ENGINE_LAZY_ACQUIRE": "true",
            "N8N_EXPRESSION_ENGINE_COMPILE_CACHE": "true",
            "EXECUTIONS_DATA_MAX_AGE": "168",  # hours
            "N8N_INSTANCE_OWNER_MANAGED_BY_ENV": "true",
            "N8N_INSTANCE_OWNER_EMAIL": people.owner_email,
            "N8N_INSTANCE_OWNER_FIRST_NAME": "Everloop",
            "N8N_INSTANCE_OWNER_LAST_NAME": "Owner",
            "N8N_INSTANCE_OWNER_PASSWORD_HASH": self._owner_hash(),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        if server.metrics_key_sha256:
            environment["EXTERNAL_HOOK_FILES"] = str(_GUARD)
            environment["EVERLOOP_METRICS_KEY_SHA256"] = server.metrics_key_sha256
        if postgres := self.settings.postgres:
            password = self.state / "postgres_password"
            write_private(password, postgres.password)
            environment |= {
                "DB_TYPE": "postgresdb",
                "DB_POSTGRESDB_HOST": postgres.host,
                "DB_POSTGRESDB_PORT": str(postgres.port),
                "DB_POSTGRESDB_DATABASE": postgres.database,
                "DB_POSTGRESDB_USER": postgres.user,
                "DB_POSTGRESDB_PASSWORD_FILE": str(password),
            }
        return environment

    def _owner_hash(self) -> str:
        password = self.secret("owner_password", self.settings.people.owner_password)
        hashed = self.state / "owner_hash"
        script = (
            "const b = require('bcryptjs'), [p, h] = JSON.parse(require('fs').readFileSync(0));"
            "process.stdout.write(h && b.compareSync(p, h) ? h : b.hashSync(p, 10))"
        )
        done = subprocess.run(
            [str(self.installed.node), "-e", script],
            input=json.dumps([password, hashed.read_text() if hashed.exists() else ""]),
            env={"NODE_PATH": str(self.installed.modules)},
            capture_output=True,
            text=True,
            check=True,
        )
        write_private(hashed, done.stdout)
        return done.stdout

    def command(self, *words: str) -> str:
        """Runs one of n8n's own commands to its end. Its exit code says little: look at the result."""
        done = subprocess.run(
            [str(self.installed.node), str(self.installed.n8n), *words],
            env=self.environment(),
            cwd=self.state,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=300,
        )
        return done.stdout

    @property
    def argv(self) -> list[str]:
        """The command line of the server."""
        return [str(self.installed.node), str(self.installed.n8n), "start"]

    def process(self) -> Process | None:
        """The server, if it runs."""
        try:
            known = Process(**json.loads(self._pid_file.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return known if known.is_alive else None

    def start(self, timeout_s: float = 120.0) -> Process:
        """Starts the server, unless it runs with the same environment, and waits until its database is ready.

        Raises:
            StartFailed: It ended, or was not ready in time; then it is stopped.
        """
        environment = self.environment()
        key = self.secret("mark_key").encode()
        mark = hmac.digest(key, json.dumps([environment, self.argv], sort_keys=True).encode(), hashlib.sha256).hex()
        known = self.state / "started_with"
        if running := self.process():
            if known.exists() and known.read_text() == mark:
                return running
            self.stop()
        write_private(known, mark)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                self.argv,
                env=environment,
                cwd=self.state,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = Process.of(child.pid)
        if process is None:
            raise StartFailed(f"ended at once with {child.wait()}", self.log)
        write_private(self._pid_file, json.dumps({"pid": process.pid, "started_at": process.started_at}))
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if child.poll() is not None:
                raise StartFailed(f"ended with {child.returncode}", self.log)
            if time.monotonic() > deadline:
                self.stop()
                raise StartFailed(f"was not ready in {timeout_s:.0f} s", self.log)
            time.sleep(0.1)
        return process

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.settings.server.url}/healthz/readiness", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self, grace_s: float = 20.0) -> bool:
        """Stops the server and its task runner. Returns False if none ran."""
        process = self.process()
        if process is None:
            return False
        os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while process.is_alive and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self._pid_file.unlink(missing_ok=True)
        return True


def write_private(path: Path, text: str) -> None:
    """Replaces a file by one that only its owner may read, if the text is another one."""
    if path.exists() and path.read_text() == text:
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
