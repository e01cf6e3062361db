"""The loop on the metrics page, from the logs alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from steps.common import releases
from steps.common.releases import Limits, ReleasedModel, open_release_log
from steps.common.signals import SignalPolicy, admit, finished, open_signal_log, signal, started
from steps.monitor.metrics import DriftCollector
from tests.workflows.engine import graphs
from tests.workflows.engine.simulated import Simulated
from workflows.engine import Engine
from workflows.log import Store, TreeRef
from workflows.metrics import LoopCollector, RunWatch, loop_metrics
from workflows.outbox import open_outbox, post_notice

POLICY = SignalPolicy(cooldown_s=0.0, max_cooldown_s=0.0)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(f"file://{tmp_path}/storage")


def page(collector: LoopCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    collector._shown_at = float("-inf")
    return generate_latest(registry).decode()


def drive(engine: Engine, run_id: str) -> None:
    runner = Simulated(engine, run_id)
    runner.claim(now=time.time())
    runner.finish(now=time.time())


def test_runs_are_counted_by_alias_and_status_as_they_go_on(engine: Engine, tmp_path: Path) -> None:
    config = {"folder": str(tmp_path / "traces")}
    done = engine.start(graphs.small, config, labels={"alias": "demo"})
    drive(engine, done)
    engine.start(graphs.small, config, run_id="waiting", labels={"alias": "demo"})
    engine.start(graphs.small, config, run_id="other")
    collector = LoopCollector(engine.store)
    first = page(collector)
    engine.cancel("waiting")
    second = page(collector)

    assert 'everloop_runs{alias="demo",status="succeeded"} 1.0' in first
    assert 'everloop_runs{alias="demo",status="pending"} 1.0' in first
    assert 'everloop_runs{alias="",status="pending"} 1.0' in first
    assert 'everloop_runs{alias="demo",status="cancelled"} 1.0' in second
    assert 'everloop_runs{alias="demo",status="pending"}' not in second
    assert second == page(LoopCollector(engine.store)), "a restart changes nothing"


def test_a_run_that_is_over_is_not_read_again(engine: Engine, tmp_path: Path) -> None:
    run_id = engine.start(graphs.small, {"folder": str(tmp_path / "traces")}, labels={"alias": "demo"})
    drive(engine, run_id)
    watch = RunWatch(engine.store)
    (line,) = watch.refresh().values()
    assert (line.status, line.alias) == ("succeeded", "demo")
    for info in list(engine.store.list(f"runs/{run_id}")):
        engine.store.put(info.key, b"unreadable")
    assert watch.refresh() == {run_id: line}
    assert watch.unfinished == []


def test_the_active_run_its_stage_and_the_signals_are_shown(engine: Engine, tmp_path: Path) -> None:
    log = open_signal_log(engine.store, "demo")
    begun = time.time() - 500
    first = signal("demo", "data", window="w1", champion=None)
    admit(log, first, POLICY, now=begun, run_id="run-a")
    admit(log, first, POLICY, now=begun)
    collector = LoopCollector(engine.store, clock=lambda: begun + 100)
    shown = page(collector)
    assert 'everloop_active_run_age_seconds{alias="demo"} 100.0' in shown
    assert 'everloop_active_run_idle_seconds{alias="demo"} 100.0' in shown
    assert 'everloop_signal_stage{alias="demo",stage="confirmed"} 1.0' in shown
    assert 'everloop_signal_stage{alias="demo",stage="idle"} 0.0' in shown
    assert 'everloop_signals_total{alias="demo",outcome="admitted",source="data"} 1.0' in shown
    assert 'everloop_signals_total{alias="demo",outcome="merged",source="data"} 1.0' in shown

    engine.start(graphs.small, {"folder": str(tmp_path)}, run_id="run-a")
    started(log, "run-a")
    now = engine.store.now() + 50
    shown = page(LoopCollector(engine.store, clock=lambda: now))
    idle = [line for line in shown.splitlines() if line.startswith("everloop_active_run_idle_seconds{")]
    assert 49.0 < float(idle[0].rpartition(" ")[2]) < 60.0

    finished(log, "run-a", "rejected", POLICY, now=begun + 200, champion=None)
    shown = page(collector)
    assert 'everloop_rounds_total{alias="demo",outcome="rejected"} 1.0' in shown
    assert 'everloop_rounds_total{alias="demo",outcome="promoted"} 0.0' in shown
    assert "everloop_active_run_age_seconds{" not in shown


def test_a_canary_has_an_age_and_a_weight_until_it_ends(engine: Engine) -> None:
    log = open_release_log(engine.store, "demo")
    model = ReleasedModel("7", TreeRef("7" * 64, 10, 2), {}, "pages@v1", "run-1")
    log.append(
        releases.open_rollout(
            rollout_id="r",
            challenger=model,
            run_id="run-1",
            epoch=1,
            at=1000.0,
            deadline_at=9000.0,
            limits=Limits(),
            stage="canary",
            weight=0.05,
            serving={},
        )
    )
    collector = LoopCollector(engine.store, clock=lambda: 1300.0)
    shown = page(collector)
    assert 'everloop_canary_age_seconds{alias="demo"} 300.0' in shown
    assert 'everloop_canary_weight{alias="demo"} 0.05' in shown
    log.append(releases.promote("r", "7", epoch=1, at=1200.0, reasons=()))
    shown = page(collector)
    assert 'everloop_canary_age_seconds{alias="demo"} 0.0' in shown
    assert 'everloop_canary_weight{alias="demo"} 0.0' in shown


def test_deliveries_that_wait_and_dead_letters_are_shown(engine: Engine) -> None:
    from workflows.log import Draft

    def told(event_id: str) -> dict[str, Any]:
        place = {"log": "notices", "index": 0, "position": 0}
        about = {"event": "a.b", "severity": "info", "title": "t", "run_id": "", "alias": ""}
        return {"id": event_id, **place, **about, "to": ["chat"]}

    log = open_outbox(engine.store)
    found = [told("one"), told("two")]
    log.append(lambda _: Draft("collected", {"cursors": {}, "found": found, "since": 0.0, "at": 1000.0}))
    ended = {
        "id": "one",
        "receiver": "chat",
        "outcome": "dead",
        "status": 500,
        "error": "",
        "retry_at": None,
        "at": 1.0,
    }
    log.append(lambda _: Draft("attempted", ended))

    shown = page(LoopCollector(engine.store, clock=lambda: 1060.0))
    assert "everloop_outbox_pending 1.0" in shown
    assert "everloop_outbox_oldest_pending_seconds 60.0" in shown
    assert "everloop_outbox_dead 1.0" in shown
    assert 'everloop_outbox_deliveries_total{outcome="dead",receiver="chat"} 1.0' in shown


def test_the_reconciler_shows_its_own_health(engine: Engine) -> None:
    collector = LoopCollector(engine.store)
    collector.succeeded(1234.0)
    collector.failed("converge")
    shown = page(collector)
    assert "everloop_reconcile_last_success_timestamp_seconds 1234.0" in shown
    assert 'everloop_reconcile_problems_total{part="converge"} 1.0' in shown


def test_a_storage_that_does_not_answer_leaves_a_page_that_says_so(engine: Engine, tmp_path: Path) -> None:
    store: Store = engine.store
    post_notice(store, {"event": "a.b", "severity": "info", "title": "t", "text": "x"}, "k")
    collector = LoopCollector(store)
    open_outbox(store).append(lambda _: _draft())
    store.put(f"outbox/{0:020}.json", b"torn")
    assert 'everloop_reconcile_problems_total{part="metrics"} 1.0' in page(collector)


def _draft() -> Any:
    from workflows.log import Draft

    return Draft("noted", {})


def test_the_names_are_as_agreed_and_meet_those_of_drift_in_one_registry(engine: Engine) -> None:
    names = {family.name + ("_total" if family.type == "counter" else "") for family in loop_metrics()}
    assert names == {
        "everloop_runs",
        "everloop_active_run_age_seconds",
        "everloop_active_run_idle_seconds",
        "everloop_signal_stage",
        "everloop_signals_total",
        "everloop_rounds_total",
        "everloop_canary_age_seconds",
        "everloop_canary_weight",
        "everloop_outbox_pending",
        "everloop_outbox_oldest_pending_seconds",
        "everloop_outbox_dead",
        "everloop_outbox_deliveries_total",
        "everloop_reconcile_last_success_timestamp_seconds",
        "everloop_reconcile_problems_total",
    }
    registry = CollectorRegistry(auto_describe=True)
    registry.register(DriftCollector())
    registry.register(LoopCollector(engine.store))
