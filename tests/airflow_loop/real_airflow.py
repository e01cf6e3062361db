"""A real Airflow of four components, as `airflow/start` makes it, and a gateway between it and its neighbours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

import aiohttp
import pytest
from aiohttp import web

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def until(what: str, look: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The first truthy answer; the last answer is in the error if there is none in time."""
    ends_at = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}; last seen: {found!r}")
        time.sleep(0.2)


def environment_folder(temporary: pytest.TempPathFactory) -> Path:
    """Where Airflow's environment is, or will be: one for all tests of a session, or for all sessions by
    `EVERLOOP_AIRFLOW_VENV`. Without uv to make it the test skips.
    """
    if shutil.which("uv") is None and not (REPOSITORY / ".tools" / "bin" / "uv").exists():
        pytest.skip("no uv to make Airflow's environment with")
    given = os.environ.get("EVERLOOP_AIRFLOW_VENV")
    return Path(given) if given else temporary.getbasetemp() / "airflow-venv"


def installed(temporary: pytest.TempPathFactory) -> Path:
    """Airflow's environment, made by `airflow/start` if it is not there."""
    venv = environment_folder(temporary)
    environment = {**os.environ, "EVERLOOP_AIRFLOW_VENV": str(venv), "EVERLOOP_AIRFLOW_STATE": f"{venv}-state"}
    subprocess.run([str(REPOSITORY / "airflow" / "start"), "install"], env=environment, check=True, timeout=400)
    return venv


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Mode = Literal["through", "refuse", "503", "truncated"]


class Gateway:
    """Stands before Ray's dashboard, may fail in its place, and takes the notices that would go to the door.

    Attributes:
        port: Where it listens.
        mode: What it does with requests for Ray.
        after_submit: Called once, after Ray took a job and before its submitter hears of it.
        notices: What was posted to `/v1/hooks/notify`.
        runs: Answers to `/v1/runs/<id>` by id.
    """

    def __init__(self, dashboard: str) -> None:
        self.port = free_port()
        self.mode: Mode = "through"
        self.after_submit: Callable[[], None] | None = None
        self.notices: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self._dashboard = dashboard
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        """Serves in a thread of its own."""
        self._thread.start()
        assert self._ready.wait(30), "the gateway did not start"

    def stop(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/hooks/notify", self._notify)
        app.router.add_get("/v1/runs/{run_id}", self._run)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self.port).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _notify(self, request: web.Request) -> web.Response:
        key = request.headers.get("idempotency-key", "")
        notice = {"key": key, "authorization": request.headers.get("authorization"), **await request.json()}
        self.notices.append(notice)
        return web.json_response({"accepted": True})

    async def _run(self, request: web.Request) -> web.Response:
        found = self.runs.get(request.match_info["run_id"])
        return web.json_response(found) if found else web.json_response({"detail": "no such run"}, status=404)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.mode == "refuse":
            assert request.transport is not None, "a request has a transport"
            request.transport.close()
            return web.Response()
        if self.mode == "503":
            return web.Response(status=503, text="no upstream")
        kept = {
            key: value for key, value in request.headers.items() if key.lower() in ("authorization", "content-type")
        }
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, self._dashboard + request.path_qs, headers=kept, data=await request.read()
            ) as answer,
        ):
            body, status = await answer.read(), answer.status
            kind = answer.headers.get("content-type", "text/plain").partition(";")[0]
        if self.mode == "truncated":
            return web.Response(body=body[: len(body) // 2], status=status, content_type=kind)
        if request.method == "POST" and request.path == "/api/jobs/" and self.after_submit is not None:
            act, self.after_submit = self.after_submit, None
            await asyncio.get_running_loop().run_in_executor(None, act)
        return web.Response(body=body, status=status, content_type=kind)


class RealAirflow:
    """One Airflow, spoken to by its REST API.

    Args:
        folder: For its state.
        environment: What `airflow/start` is told.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self._environment = {
            **os.environ,
            "EVERLOOP_AIRFLOW_STATE": str(folder),
            "EVERLOOP_AIRFLOW_PORT": str(self.port),
            # What takes over from the dead waits for a sign of life this long; in production for minutes.
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            **environment,
        }
        self._token = ""

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `airflow/start`."""
        return subprocess.run(
            [str(REPOSITORY / "airflow" / "start"), *arguments],
            env=self._environment,
            text=True,
            capture_output=True,
            timeout=400,
            check=check,
        )

    def spawn(self, output: IO[bytes], *arguments: str) -> subprocess.Popen[bytes]:
        """Begins `airflow/start` in a session of its own."""
        return subprocess.Popen(
            [str(REPOSITORY / "airflow" / "start"), *arguments],
            env=self._environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def start(self) -> None:
        """Starts what does not run, and waits until it is well."""
        done = self.command("start", check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self._logs()

    def stop(self) -> None:
        """Stops all of it."""
        self.command("stop")

    def _logs(self) -> str:
        return "".join(
            f"\n== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in self.folder.glob("*.log")
        )

    def kill(self, component: str) -> None:
        """kill -9 of a component and all that it started."""
        leader = json.loads((self.folder / "processes.json").read_text())[component]["pid"]
        for pid in session_of(leader):
            os.kill(pid, signal.SIGKILL)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A request to the API, as the administrator."""
        if not self._token:
            password = json.loads((self.folder / "secrets.json").read_text())["admin_password"]
            self._token = self._send("POST", "/auth/token", {"username": "admin", "password": password})["access_token"]
        return self._send(method, f"/api/v2{path}", body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"content-type": "application/json", "accept": "application/json"},
        )
        if self._token:
            request.add_header("authorization", f"Bearer {self._token}")
        with _OPENER.open(request, timeout=60) as answer:
            return json.load(answer)

    def ready(self, *dag_ids: str) -> None:
        """Waits until these DAGs are known."""

        def known() -> bool:
            found = {dag["dag_id"] for dag in self.ask("GET", "/dags?limit=200")["dags"]}
            return found.issuperset(dag_ids)

        until(f"DAGs {dag_ids}", known)
        errors = self.ask("GET", "/importErrors")["import_errors"]
        assert errors == [], errors

    def trigger(self, dag_id: str, dag_run_id: str, conf: Mapping[str, Any] | None = None) -> None:
        """Starts a DAG run."""
        body = {"dag_run_id": dag_run_id, "logical_date": None, "conf": conf or {}}
        self.ask("POST", f"/dags/{dag_id}/dagRuns", body)

    def task(self, dag_id: str, dag_run_id: str, task_id: str = "job") -> dict[str, Any]:
        """A task instance."""
        run = urllib.parse.quote(dag_run_id, safe="")
        found: dict[str, Any] = self.ask("GET", f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}")
        return found

    def wait(
        self, dag_id: str, dag_run_id: str, *states: str, task_id: str = "job", deadline_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Waits until the task is in one of these states."""

        def reached() -> dict[str, Any] | None:
            nonlocal seen
            found = self.task(dag_id, dag_run_id, task_id)
            seen = found["state"]
            return found if seen in states else None

        seen = None
        try:
            found: dict[str, Any] = until(f"{dag_id} {dag_run_id} in {states}", reached, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error} (state {seen})\n{self.task_log(dag_id, dag_run_id, task_id)}") from error
        return found

    def xcom(self, dag_id: str, dag_run_id: str, task_id: str = "job", key: str = "return_value") -> Any:
        """What a task gave."""
        run = urllib.parse.quote(dag_run_id, safe="")
        path = f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.ask("GET", f"{path}?deserialize=true")["value"]

    def task_log(self, dag_id: str, dag_run_id: str, task_id: str = "job") -> str:
        """All log files of a task, its triggerer's included."""
        folder = self.folder / "logs" / f"dag_id={dag_id}" / f"run_id={dag_run_id}" / f"task_id={task_id}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(folder.rglob("*")) if path.is_file())


def session_of(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def listening(pids: Iterable[int]) -> set[str]:
    """The addresses on which these processes listen, as the kernel writes them."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                sockets.add(str(descriptor.readlink()))
    tables = [Path(f"/proc/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@contextmanager
def running(airflow: RealAirflow) -> Iterator[RealAirflow]:
    """Starts it and stops it again."""
    try:
        airflow.start()
        yield airflow
    finally:
        airflow.stop()
