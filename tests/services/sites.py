"""The programs around the loop, started as `make up` does, on free ports and in a folder of their own."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PORTS = ("minio", "minio_console", "mlflow", "prometheus", "alertmanager", "triggers", "reconciler")
UNUSED = ("airflow", "n8n", "endpoint")
QUICK = """
[loop]
recipe = ""
[prometheus]
scrape_interval_s = 1
evaluation_interval_s = 1
rules = {rules}
[alertmanager]
group_wait_s = 0
group_interval_s = 1
repeat_interval_s = 60
[reconciler]
interval_s = 1
"""


class ServicesSite:
    """`python -m workflows.services` with a configuration and a state folder of its own."""

    def __init__(self, folder: Path, minio: str, rules: Sequence[Path] = (), settings: str = QUICK) -> None:
        self.state = folder / "state"
        self.config = folder / "services.toml"
        names = (*PORTS, *UNUSED)
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        lines = ["[ports]", *(f"{name} = {port}" for name, port in self.ports.items())]
        told = json.dumps([str(path) for path in rules])
        self.config.write_text("\n".join(lines) + "\n" + settings.replace("{rules}", told))
        self._environment = {**os.environ, "EVERLOOP_MINIO": minio, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        self._environment.pop("EVERLOOP_STATE", None)

    def run(
        self, what: str, *arguments: str, ok: bool | None = True, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "workflows.services", what, "--config", str(self.config)]
        done = subprocess.run(
            [*command, "--state", str(self.state), *arguments],
            cwd=REPOSITORY,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ok is None or (done.returncode == 0) == ok, done.stdout + done.stderr
        return done

    def told(self, what: str, *arguments: str, ok: bool | None = True, timeout_s: float = 240) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(what, *arguments, "--json", ok=ok, timeout_s=timeout_s).stdout.splitlines()[-1])

    def statuses(self, *, ok: bool | None = True) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.told("status", ok=ok)}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"


def need_watchers() -> None:
    """Skips where Prometheus or Alertmanager is not installed."""
    for name in ("prometheus", "prometheus-alertmanager"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name}: apt-get install {name}")


def minio_binary(folder: Path) -> str:
    """The path of a MinIO, unpacked into a folder if need be."""
    for found in (os.environ.get("EVERLOOP_MINIO"), shutil.which("minio")):
        if found:
            return found
    packed = REPOSITORY.parent / "shared" / "k8s" / "bin" / "minio.xz"
    if not packed.exists():
        pytest.skip("no MinIO: set EVERLOOP_MINIO or put `minio` on PATH")
    binary = folder / "minio"
    with lzma.open(packed) as source, binary.open("wb") as target:
        shutil.copyfileobj(source, target)
    binary.chmod(0o755)
    return str(binary)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    ports = [int(opened.getsockname()[1]) for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports
