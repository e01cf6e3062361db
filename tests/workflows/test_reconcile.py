"""The reconciler as a process: it tells what happened, and takes up only what is not over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.common.signals import open_signal_log
from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from tests.workflows.outbox.conftest import SECRET, Sink
from tests.workflows.outbox.conftest import make_sink as _make_sink
from workflows.access import StoredSeenIds
from workflows.api import Loop
from workflows.configs import RECIPES
from workflows.engine import Engine
from workflows.log import Draft
from workflows.outbox import OutboxSettings, load_outbox_settings
from workflows.reconcile import Reconciler

REPOSITORY = Path(__file__).resolve().parents[2]
make_sink = _make_sink


def finished_run(storage: str, folder: Path) -> str:
    """A run that a real engine has recorded from start to end."""
    engine = Engine(storage)
    run_id = engine.start(graphs.small, {"folder": str(folder)}, labels={"alias": "demo"})
    runner = Simulated(engine, run_id)
    runner.log = engine._log(run_id)
    runner.claim(now=time.time())
    runner.finish(now=time.time())
    return run_id


def test_one_round_delivers_what_a_finished_run_has_to_tell(tmp_path: Path, make_sink: Callable[..., Sink]) -> None:
    storage, sink = f"file://{tmp_path}/storage", make_sink()
    run_id = finished_run(storage, tmp_path / "traces")
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'public_url = "http://door:8400"\n[[notify]]\nurl = "http://127.0.0.1:{sink.port}/hook"\nsecret = "{SECRET}"\n'
    )
    command = [sys.executable, "-m", "workflows.reconcile", "--once", "--json", "--storage", storage]
    done = subprocess.run(
        [*command, "--settings", str(settings)],
        cwd=REPOSITORY,
        env={**os.environ, "EVERLOOP_LOG": "WARNING"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    again = Reconciler(storage, settings=load_outbox_settings(settings)).round()

    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[-1])
    assert (first["told"], first["sent"], first["problems"]) == (2, 2, [])
    assert (again.told, again.sent) == (0, 0)
    assert [body["type"] for body in sink.bodies] == ["run.started", "run.succeeded"]
    assert {body["data"]["alias"] for body in sink.bodies} == {"demo"}
    assert sink.bodies[1]["data"]["links"] == {"page": f"http://door:8400/runs/{run_id}"}


def test_settings_that_are_wrong_are_wrong_use(tmp_path: Path) -> None:
    from workflows.reconcile import main

    settings = tmp_path / "settings.toml"
    settings.write_text("surplus = 1")
    assert main(["--once", "--storage", str(tmp_path / "storage"), "--settings", str(settings)]) == 2
    assert not (tmp_path / "storage" / "outbox").exists()


def test_a_run_that_is_due_is_taken_up_and_one_that_is_over_is_not(tmp_path: Path) -> None:
    storage = f"file://{tmp_path}/storage"
    finished_run(storage, tmp_path / "traces")
    due = Engine(storage).start(graphs.small, {"folder": str(tmp_path / "traces"), "again": 1})
    launched: list[str] = []

    def launch(run_id: str) -> subprocess.Popen[bytes]:
        launched.append(run_id)
        return subprocess.Popen([sys.executable, "-c", ""])

    reconciler = Reconciler(storage, settings=OutboxSettings(), launch=launch)
    done = reconciler.round()
    assert done.resumed == (due,) == tuple(launched)
    assert reconciler.wait()
    assert done.problems == ()


def test_a_part_that_fails_is_counted_and_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"file://{tmp_path}/storage"
    finished_run(storage, tmp_path / "traces")
    reconciler = Reconciler(storage)

    def broken() -> None:
        raise ConnectionError("no Ray")

    monkeypatch.setattr(reconciler, "_converge", broken)
    done = reconciler.round()
    assert done.problems == ("converge: ConnectionError: no Ray",)
    shown = {family.name: family.samples for family in reconciler.loop_metrics.collect()}
    assert [(sample.labels, sample.value) for sample in shown["everloop_reconcile_problems"]] == [
        ({"part": "converge"}, 1)
    ]
    assert shown["everloop_reconcile_last_success_timestamp_seconds"][0].value == 0.0


def test_an_alias_is_settled_when_its_run_has_ended_and_left_alone_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = f"file://{tmp_path}/storage"
    config = RECIPES["nano"]()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    loop = Loop(storage)
    begun = loop.start_by_hand(config)
    loop.engine._log(begun.run_id).append(lambda state: Draft("parked", {"wake_at": None}))
    reconciler = Reconciler(storage, launch=lambda _: ended)
    settled: list[str] = []
    settle = reconciler._loop.settle
    monkeypatch.setattr(reconciler._loop, "settle", lambda alias: (settled.append(alias), settle(alias)))

    assert reconciler.round().problems == ()
    assert settled == []
    loop.engine.cancel(begun.run_id, by="test")
    assert reconciler.round().problems == ()

    assert settled == [config.deploy.alias]
    state = open_signal_log(loop.engine.store, config.deploy.alias).refresh()
    assert (state.active, state.finished[-1].outcome) == (None, "cancelled")
    reconciler.round()
    assert settled == [config.deploy.alias]


def test_ids_of_webhooks_that_are_too_old_to_be_replayed_are_forgotten(tmp_path: Path) -> None:
    storage = f"file://{tmp_path}/storage"
    store = Engine(storage).store
    seen = StoredSeenIds(store)
    seen.add("old", store.now() - 1)
    seen.add("new", store.now() + 600)
    assert Reconciler(storage).round().problems == ()
    assert len(list(store.list("seen-deliveries"))) == 1
    assert not seen.add("new", store.now() + 600)
