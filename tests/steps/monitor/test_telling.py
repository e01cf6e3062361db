"""What people are told of drift."""

from __future__ import annotations

from dataclasses import asdict

from steps.monitor.monitor_log import Alarm, MonitorState, Watched
from steps.monitor.telling import MonitorTeller
from workflows.log import BlobRef, Draft

WATCHED = Watched(
    token="t",
    champion="4",
    reference=BlobRef("a" * 64, 10),
    run_id="run-1",
    run_length=2000.0,
    measured_run_length=1900.0,
    at=1.0,
    num_traffic=100,
    num_documents=0,
)
ALARM = Alarm(
    detector="prompt_mmd",
    statistic=0.3127,
    threshold=0.1,
    number=1,
    num_prompts=57,
    at=2.0,
    detail={"length": 3.5},
    examples=("a private question",),
)


def test_an_alarm_is_told_with_its_numbers_and_without_what_clients_wrote() -> None:
    draft = Draft("scanned", {"alarms": [asdict(ALARM)]})
    (note,) = MonitorTeller("demo")(MonitorState(watched=WATCHED), draft)

    assert (note.event, note.alias, note.severity) == ("drift.alarm", "demo", "warning")
    for words in ("0.3127", "0.1", "57 prompts", "2,000 sessions", "length 3.5"):
        assert words in note.text
    assert "version 4" in note.title
    assert "private" not in str(note.to_json())


def test_a_scan_without_alarm_is_not_told() -> None:
    assert not MonitorTeller("demo")(MonitorState(watched=WATCHED), Draft("scanned", {"alarms": []}))
    assert not MonitorTeller("demo")(MonitorState(watched=WATCHED), Draft("delivered", {"numbers": [1]}))
