"""The whole set as `make up` starts it, with the world outside of it, and what is seen of it from there."""

from __future__ import annotations

import json
import os
import signal
import time
import tomllib
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from n8n_flows import install
from steps.common.releases import open_release_log
from steps.common.signals import SignalState, open_signal_log
from tests.n8n_flows.outside import Outside, outside_world
from tests.services.sites import ServicesSite, minio_binary, need_watchers
from workflows.engine import Engine, EngineError, RunView
from workflows.engine.claims import start_time
from workflows.log import Log, LogError
from workflows.services.secret_file import owner

ALIAS = "nano"
UP_S = 900.0
RUN_S = 900.0
SETTINGS = """
[loop]
alias = "nano"
recipe = "nano"
overrides = {overrides}
[prometheus]
scrape_interval_s = 1
evaluation_interval_s = 1
rules = {rules}
[alertmanager]
group_wait_s = 0
group_interval_s = 5
repeat_interval_s = 30
[reconciler]
interval_s = 2
[airflow]
cron = "{cron}"
poll_s = 2
[people]
slack_url = "http://127.0.0.1:{http_port}/chat/T/B/x"
[people.mail]
host = "127.0.0.1"
port = {smtp_port}
sender = "everloop@example.test"
to = "team@example.test"
starttls = false
"""
NEVER = "0 3 1 1 *"


def until(what: str, look: Callable[[], Any], within_s: float = RUN_S) -> Any:
    """The first truthy answer; errors of those that are just being killed count as none."""
    deadline, seen = time.monotonic() + within_s, None
    while time.monotonic() < deadline:
        try:
            seen = look()
        except (OSError, ValueError, HTTPException, LogError, EngineError) as error:
            seen = error
        if seen and not isinstance(seen, Exception):
            return seen
        time.sleep(0.25)
    return pytest.fail(f"not within {within_s:.0f} s: {what}; last seen: {seen!r}")


@dataclass
class WholeSet:
    """All services, healthy, on ports and in a folder of their own.

    Attributes:
        site: The services.
        outside: The chat and the mail server.
        up: What `up` said of each.
        lines: What is to be printed at the end.
    """

    site: ServicesSite
    outside: Outside
    up: Sequence[Mapping[str, Any]] = ()
    lines: list[str] = field(default_factory=list)

    @cached_property
    def engine(self) -> Engine:
        return Engine(os.environ["EVERLOOP_STORAGE"], state=self.site.state)

    @property
    def signals(self) -> SignalState:
        return open_signal_log(self.engine.store, ALIAS).refresh()

    @property
    def release(self) -> Any:
        return open_release_log(self.engine.store, ALIAS).refresh()

    def say(self, line: str) -> None:
        """Printed at once, and once more at the end."""
        self.lines.append(line)
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    def key(self, subject: str = "") -> str:
        """API key of the door; by default that of the person who runs the services."""
        secrets = tomllib.loads((self.site.state / "services" / "secrets.toml").read_text())
        return str(secrets["api_keys"][subject or owner()])

    def door(self, method: str, path: str, body: Any = None, subject: str = "") -> Any:
        """Asks the door."""
        return _ask(method, self.site.url("triggers") + path, body, self.key(subject))

    def airflow(self, method: str, path: str, body: Any = None) -> Any:
        """Asks Airflow's API as its administrator."""
        password = json.loads((self.site.state / "services" / "airflow" / "secrets.json").read_text())["admin_password"]
        token = _ask("POST", self.site.url("airflow") + "/auth/token", {"username": "admin", "password": password})
        return _ask(method, f"{self.site.url('airflow')}/api/v2{path}", body, token["access_token"])

    def runs(self) -> list[str]:
        """Ids of all runs, oldest first."""
        found = sorted(self.engine.list(), key=lambda run: (run.created_at, run.run_id))
        return [run.run_id for run in found]

    def view(self, run_id: str) -> RunView:
        return self.engine.view(run_id)

    def at_step(self, run_id: str, name: str) -> Callable[[], bool]:
        """Whether a step of this name runs, or is past."""
        return lambda: any(
            step.name.split("/")[-1].split("~")[0] == name and step.status in ("running", "succeeded")
            for step in self.view(run_id).steps
        )

    def finished(self, run_id: str) -> RunView:
        """Waits for the end of a run, which must be a good one."""

        def over() -> RunView | None:
            view = self.view(run_id)
            return view if view.status in ("succeeded", "dead", "cancelled") else None

        view: RunView = until(f"run {run_id} over", over)
        failed = {step.name: step.error for step in view.steps if step.error}
        assert view.status == "succeeded", (view.status, view.reason, failed)
        return view

    def runners(self, run_id: str) -> dict[int, int]:
        """Start time by pid of the processes that drive a run, their wrappers left out."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "workflows.run" in words and run_id in words and "python" in words[0]:
                at = start_time(int(entry.name))
                if at is not None:
                    found[int(entry.name)] = at
        return found

    def told(self, run_id: str) -> Counter[str]:
        """How often the chat heard what of a run, by event."""
        events: Counter[str] = Counter()
        for text in self.outside.chat(run_id):
            last = text.rstrip().rsplit("\n", 1)[-1]
            is_question = "|Look and decide>" in last
            events["approval.requested" if is_question else last.removeprefix("(").partition(",")[0]] += 1
        return events

    def problems_of(self, run_id: str) -> list[str]:
        """What is wrong with the records of a run that is over: something lost, or something twice."""
        engine = self.engine
        found = [] if engine.verify(run_id).ok else [f"{run_id}: the journal does not verify"]
        records = list(Log(engine.store, f"runs/{run_id}", engine._fold).records())
        done = Counter(step for record in records for step, _ in record.data.get("done", ()))
        found += [f"{run_id}: {step} recorded {count} times" for step, count in done.items() if count != 1]
        return found

    def releases_of(self, run_id: str) -> Counter[str]:
        """Records of the release log that speak of a run, by kind."""
        records = list(open_release_log(self.engine.store, ALIAS).records())
        own = {record.data["rollout"] for record in records if record.data.get("run_id") == run_id}
        return Counter(record.kind for record in records if record.data.get("rollout") in own)

    def say_memory(self, when: str) -> float:
        """Prints what each service takes; gives the sum in MiB."""
        found = {name: one["memory_bytes"] / 2**20 for name, one in self.site.statuses(ok=None).items()}
        shown = ", ".join(f"{name} {size:.0f}" for name, size in found.items() if size)
        self.say(f"memory {when}: {sum(found.values()):.0f} MiB ({shown}); load {os.getloadavg()[0]:.1f}")
        return sum(found.values())


@contextmanager
def whole_set(folder: Path, *, overrides: Sequence[str], cron: str = NEVER, without: str = "") -> Iterator[WholeSet]:
    """Starts it, and ends it; skips where a program is not installed. This process sees its storage meanwhile."""
    need_watchers()
    minio = minio_binary(folder)
    if "n8n" not in without and not install.installation().n8n.exists():
        pytest.skip("n8n is not installed: n8n_flows/start install")
    before = dict(os.environ)
    with outside_world() as outside:
        settings = SETTINGS.format(
            overrides=json.dumps(list(overrides)),
            rules="{rules}",
            cron=cron,
            http_port=outside.http_port,
            smtp_port=outside.smtp_port,
        )
        made = WholeSet(ServicesSite(folder, minio, (), settings), outside)
        chosen = ("--only", ",".join(name for name in ALL if name not in without.split(",")))
        try:
            began = time.monotonic()
            made.up = made.site.told("up", *chosen, timeout_s=UP_S)
            shown = ", ".join(f"{one['name']} {one['seconds']:.1f}" for one in made.up)
            made.say(f"up after {time.monotonic() - began:.1f} s ({shown}); load {os.getloadavg()[0]:.1f}")
            made.say_memory("after up")
            os.environ |= made.site.told("env")
            yield made
        finally:
            try:
                made.site.run("down", timeout_s=300)
            finally:
                os.environ.clear()
                os.environ |= before
                print("\n".join(["", "seen:", *made.lines]), flush=True)


ALL = ("minio", "mlflow", "ray", "triggers", "reconciler", "alertmanager", "prometheus", "airflow", "n8n", "watch")


def kill(pids: Mapping[int, int]) -> int:
    """kill -9 of processes by pid and start time; how many were there."""
    num_killed = 0
    for pid, at in pids.items():
        if start_time(pid) == at:
            os.kill(pid, signal.SIGKILL)
            num_killed += 1
    return num_killed


def _ask(method: str, url: str, body: Any = None, token: str = "") -> Any:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
