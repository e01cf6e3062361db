"""What people are told of signals that get no run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from steps.common.signals import SignalPolicy, SignalState, admit, finished, open_signal_log, signal
from workflows.log import Log, open_store

POLICY = SignalPolicy(cooldown_s=100.0, max_cooldown_s=100.0)


@pytest.fixture
def log(tmp_path: Path) -> Log[SignalState]:
    made = open_signal_log(open_store(str(tmp_path)), "demo")
    admit(made, signal("demo", "schedule", window="monday", champion="1"), POLICY, now=0.0)
    return made


def told(log: Log[SignalState]) -> list[Mapping[str, Any]]:
    return [note for record in log.records() for note in record.notify]


def test_a_suppressed_signal_is_told_once_per_cause_and_reason(log: Log[SignalState]) -> None:
    run_id = log.state.active.run_id if log.state.active else ""
    finished(log, run_id, "promoted", POLICY, now=10.0, champion="2")
    for now in range(20, 70):
        admit(log, signal("demo", "drift", window="w1", champion="2"), POLICY, now=float(now))
    admit(log, signal("demo", "drift", window="w2", champion="2"), POLICY, now=70.0)

    first, second = told(log)
    assert (first["event"], first["severity"], first["alias"]) == ("signal.suppressed", "info", "demo")
    assert "rests after its last run" in first["text"]
    assert "gets its run by itself" in first["text"]
    assert (first["facts"]["window"], second["facts"]["window"]) == ("w1", "w2")


def test_admitted_and_merged_signals_are_not_told(log: Log[SignalState]) -> None:
    admit(log, signal("demo", "schedule", window="monday", champion="1"), POLICY, now=1.0)
    assert told(log) == []
