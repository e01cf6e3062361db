"""The scan: drift is one signal, once, whatever is killed and however many scan."""

from __future__ import annotations

import os
import shutil
import signal as signals_of_unix
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.common.alone import AloneContext
from steps.common.embedding import TextEmbedder
from steps.common.results import DatasetVersion, Release
from steps.common.signals import Admitted, SignalPolicy, admit, due, finished, open_signal_log, started
from steps.monitor import MonitorConfig
from steps.monitor.monitor_log import MonitorFold, open_monitor_log
from steps.monitor.scan import Scanner, scan, watched_aliases
from steps.monitor.step import watch
from workflows.log import open_store

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = MonitorConfig(run_length=300, window=10, min_sessions=150, num_bootstraps=500)
Send = Callable[..., None]


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory,
    make_dataset: Callable[..., DatasetVersion],
    release: Release,
    send: Send,
    embedder: TextEmbedder,
) -> Path:
    """A storage in which the champion is watched, by a reference of 300 sessions about code."""
    folder = tmp_path_factory.mktemp("watched")
    ctx = AloneContext(f"file://{folder}", step="monitor", scratch=folder)
    send(ctx.store, "code", 0, 300)
    watch(CONFIG, make_dataset(ctx.blobs), release, ctx, embedder)
    return folder


@pytest.fixture
def ctx(tmp_path: Path, watched: Path) -> AloneContext:
    """A copy of that storage."""
    shutil.copytree(watched, tmp_path / "store")
    return AloneContext(f"file://{tmp_path}/store", step="monitor", scratch=tmp_path)


def test_nothing_is_watched_before_the_first_reference(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}")
    assert watched_aliases(store) == []
    assert scan(store, "everloop").champion is None


def test_traffic_of_the_reference_was_read_and_a_quiet_scan_writes_nothing(
    ctx: AloneContext, embedder: TextEmbedder
) -> None:
    assert watched_aliases(ctx.store) == ["everloop"]
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        assert scanner.scan().num_prompts == 0
    assert open_monitor_log(ctx.store, "everloop").length == 1


def test_a_changed_topic_is_one_signal_and_known_topics_are_none(
    ctx: AloneContext, send: Send, embedder: TextEmbedder
) -> None:
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        send(ctx.store, "code", 1000, 60)
        quiet = scanner.scan()
        assert (quiet.num_prompts, quiet.raised) == (60, ())
        assert quiet.readings["prompt_mmd"]["statistic"] < quiet.readings["prompt_mmd"]["threshold"]
        raised: list[str] = []
        for start in range(2000, 2100, 20):
            send(ctx.store, "food", start, 20)
            raised += scanner.scan().raised
    assert len(raised) == 1
    log = open_signal_log(ctx.store, "everloop")
    (waiting,) = log.state.pending.values()
    assert waiting.signal.source == "drift"
    assert waiting.signal.evidence["statistic"] > 0
    assert any("tomato" in example or "salt" in example for example in waiting.signal.evidence["examples"])
    assert log.length == 1
    state = open_monitor_log(ctx.store, "everloop").refresh()
    assert state.num_confirmed >= 2
    assert state.undelivered == ()


def test_drift_that_stays_is_raised_again_after_a_rejected_run(
    ctx: AloneContext, send: Send, embedder: TextEmbedder
) -> None:
    policy = SignalPolicy(cooldown_s=100, max_cooldown_s=100)
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        send(ctx.store, "food", 2000, 40)
        (key,) = scanner.scan().raised
        log = open_signal_log(ctx.store, "everloop")
        (waiting,) = due(log.refresh(), policy, 0)
        assert waiting.signal.key == key
        decision = admit(log, waiting.signal, policy, now=0)
        assert isinstance(decision, Admitted)
        started(log, decision.run_id)
        send(ctx.store, "food", 3000, 40)
        assert scanner.scan().raised == ()
        finished(log, decision.run_id, "rejected", policy, now=10, champion="1")
        send(ctx.store, "food", 4000, 40)
        assert len(scanner.scan().raised) == 1
    assert due(log.refresh(), policy, 50) == ()
    assert len(due(log.state, policy, 200)) == 1


def test_a_session_counts_once_and_replayed_prompts_never(
    ctx: AloneContext, send: Send, embedder: TextEmbedder
) -> None:
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        send(ctx.store, "food", 290, 20)  # ten of them are sessions of the reference
        assert scanner.scan().num_prompts == 10
        send(ctx.store, "food", 290, 20, writer="another-router")
        assert scanner.scan().num_prompts == 0


def test_too_many_prompts_are_thinned_out_and_counted(ctx: AloneContext, send: Send, embedder: TextEmbedder) -> None:
    with Scanner(ctx.store, "everloop", embedder=embedder, max_prompts=50) as scanner:
        send(ctx.store, "code", 1000, 120)
        assert scanner.scan().num_prompts == 40
    assert open_monitor_log(ctx.store, "everloop").refresh().num_skipped == 80


def test_two_scanners_give_what_one_gives(ctx: AloneContext, send: Send, embedder: TextEmbedder) -> None:
    first = Scanner(ctx.store, "everloop", embedder=embedder)
    second = Scanner(ctx.store, "everloop", embedder=embedder)
    seen = 0
    for turn in range(6):
        send(ctx.store, "food", 2000 + 20 * turn, 20)
        for scanner in (first, second) if turn % 2 else (second, first):
            seen += scanner.scan().num_prompts
    assert seen == 120
    assert open_signal_log(ctx.store, "everloop").length == 1


def test_state_survives_its_snapshot_form(ctx: AloneContext, send: Send, embedder: TextEmbedder) -> None:
    import json

    send(ctx.store, "food", 2000, 60)
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        scanner.scan()
    state, fold = open_monitor_log(ctx.store, "everloop").refresh(), MonitorFold()
    assert state.alarms
    assert fold.load(json.loads(json.dumps(fold.dump(state)))) == state


_KILLED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("surroundings", sys.argv[3])
surroundings = importlib.util.module_from_spec(spec)
sys.modules["surroundings"] = surroundings
spec.loader.exec_module(surroundings)
from steps.monitor.scan import Scanner
from workflows.log import open_store
Scanner(open_store(sys.argv[1]), sys.argv[2], embedder=surroundings.WordEmbedder()).scan()
"""


@pytest.mark.parametrize(
    "failpoint",
    [
        "monitor.scan.before-append",
        "log.append.before-create",
        "log.append.after-create",
        "monitor.scan.after-append",
        "monitor.deliver.after-raise",
        "log.append.after-create@3",
    ],
)
def test_kill_9_anywhere_in_a_scan_loses_and_repeats_nothing(
    ctx: AloneContext, send: Send, embedder: TextEmbedder, failpoint: str
) -> None:
    send(ctx.store, "food", 2000, 40)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, ctx.store.uri, "everloop", str(Path(__file__).with_name("conftest.py"))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "EVERLOOP_FAILPOINT": f"{failpoint}=kill"},
        check=False,
        timeout=120,
    )
    assert killed.returncode == -signals_of_unix.SIGKILL
    with Scanner(ctx.store, "everloop", embedder=embedder) as scanner:
        scanner.scan()
        scanner.scan()
    assert [record.kind for record in open_monitor_log(ctx.store, "everloop").records()] == [
        "watched",
        "scanned",
        "delivered",
    ]
    state = open_monitor_log(ctx.store, "everloop").refresh()
    assert state.num_prompts == 40
    assert state.undelivered == ()
    log = open_signal_log(ctx.store, "everloop")
    assert [record.kind for record in log.records()] == ["raised"]
