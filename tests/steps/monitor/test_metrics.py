"""Drift and retraining on the metrics page, folded from the logs."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from steps.common.signals import SignalPolicy, admit, open_signal_log, signal
from steps.monitor.metrics import DriftCollector
from steps.monitor.monitor_log import MonitorState
from workflows.log import open_store


def test_shows_statistics_suppressed_signals_and_the_stage(tmp_path: Path) -> None:
    log = open_signal_log(open_store(f"file://{tmp_path}"), "everloop")
    few = signal("everloop", "data", window="v2", champion="1", num_new_rows=0)
    admit(log, few, SignalPolicy(), now=0)
    monitor = MonitorState(
        readings={"prompt_mmd": {"statistic": 0.2, "threshold": 0.1}}, num_prompts=40, num_raised={"prompt_mmd": 1}
    )
    collector = DriftCollector()
    registry = CollectorRegistry()
    registry.register(collector)
    collector.follow("everloop", monitor, log.state, now=1)
    page = generate_latest(registry).decode()
    assert 'everloop_drift_statistic{alias="everloop",detector="prompt_mmd"} 0.2' in page
    assert 'everloop_drift_threshold{alias="everloop",detector="prompt_mmd"} 0.1' in page
    assert 'everloop_drift_alarms_total{alias="everloop",detector="prompt_mmd"} 1.0' in page
    assert 'everloop_retrain_suppressed_total{alias="everloop",reason="too_few_rows"} 1.0' in page
    assert 'everloop_retrain_stage{alias="everloop",stage="idle"} 1.0' in page
    assert 'everloop_drift_prompts_total{alias="everloop"} 40.0' in page
