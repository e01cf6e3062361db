"""The command line is a promise: a flag that goes, comes or changes its meaning is changed here on purpose."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from steps.common import signals
from workflows import run, runs
from workflows.api import Loop
from workflows.configs import load

RUN = {
    "--recipe", "--config", "--resume", "--fork", "--down", "--set", "--from", "--run-id", "--dry-run",
    "--source", "--window", "--accept-code", "--code", "--storage", "--json", "--as", "--help",
}  # fmt: skip

RUNS = {
    "list": [],
    "show": ["id"],
    "watch": ["id"],
    "output": ["id", "step"],
    "cancel": ["id", "--as"],
    "approve": ["id", "name", "--as", "--by", "--reject"],
    "verify": ["id"],
    "repair": ["id", "--as"],
    "delete": ["id", "--as"],
    "resume-all": ["--as"],
}


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}


def _names(parser: argparse.ArgumentParser) -> list[str]:
    return [action.option_strings[0] if action.option_strings else action.dest for action in parser._actions]


def test_the_flags_of_run() -> None:
    assert _flags(run.parser()) == RUN


def test_the_verbs_of_runs() -> None:
    verbs = next(a for a in runs.parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    common = {"-h", "--storage", "--json"}
    assert {verb: [n for n in _names(parser) if n not in common] for verb, parser in verbs.items()} == RUNS
    assert all({"--storage", "--json"} <= _flags(parser) for parser in verbs.values())


@pytest.mark.parametrize(
    "argv",
    [
        ["--recipe", "huge"],
        ["--recipe", "nano", "--config", "x.toml"],
        ["--fork", "a"],
        ["--from", "tune"],
        ["--accept-code"],
        ["--code", "recorded"],
        ["--resume", "a", "--accept-code", "--code", "recorded"],
        ["--resume", "a", "--set", "tune.num_trials=3"],
        ["--resume", "a", "--run-id", "b"],
        ["--source", "schedule"],
        ["--window", "noon"],
        ["--source", "drift", "--window", "noon"],
        ["--resume", "a", "--source", "schedule", "--window", "noon"],
        ["--no-such-flag"],
    ],
)
def test_wrong_use_exits_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(argv)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_wrong_key_exits_with_2_and_is_named(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--recipe", "nano", "--set", "tune.num_trails=3", "--storage", f"{tmp_path}/s", "--dry-run"]) == 2
    assert "tune.num_trails" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--resume", "nobody"], ["--resume", "../etc"], ["--fork", "nobody", "--from", "tune"]]
)
def test_an_unknown_run_is_named(argv: list[str], tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*argv, "--storage", f"{tmp_path}/s"]) != 0
    assert argv[1] in capsys.readouterr().err


def test_a_dry_run_names_the_eight_steps_and_starts_nothing(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--recipe", "nano", "--dry-run", "--storage", f"{tmp_path}/s"]) == 0
    shown = capsys.readouterr().out
    places = [
        shown.index(name)
        for name in ("scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor")
    ]
    assert places == sorted(places)
    assert runs.main(["list", "--storage", f"{tmp_path}/s"]) == 0
    assert capsys.readouterr().out == ""


CONFIG = load("nano", None, [])


def asked(capsys: pytest.CaptureFixture[str], storage: str, source: str, window: str, run_id: str) -> dict[str, Any]:
    """What the last line says, of a cause that is not to be driven."""
    argv = ["--recipe", "nano", "--storage", storage, "--run-id", run_id, "--source", source, "--window", window]
    assert run.main([*argv, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return told


def rested(loop: Loop) -> str:
    """A run by schedule of the window `monday` that has ended, and left its alias resting."""
    begun = loop.start_once(CONFIG, "schedule", window="monday", run_id="r-monday")
    log, now = signals.open_signal_log(loop.engine.store, "nano"), loop.engine.store.now()
    loop.engine.cancel(begun.run_id)
    signals.finished(log, begun.run_id, "unchanged", CONFIG.signals, now=now, champion=None)
    return begun.run_id


def test_a_schedule_that_comes_too_soon_is_suppressed_with_the_reason_and_nothing_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(f"file://{tmp_path}/storage")
    rested(loop)

    told = asked(capsys, loop.storage, "schedule", "tuesday", "r-tuesday")

    assert (told["outcome"], told["run_id"]) == ("suppressed", "r-tuesday")
    assert "s of rest are left" in told["reason"]
    assert [found.run_id for found in loop.engine.list()] == ["r-monday"]
    counts = signals.open_signal_log(loop.engine.store, "nano").refresh().num_decided
    assert counts == {"schedule/admitted": 1, "schedule/suppressed": 1}


def test_a_window_that_had_its_run_is_answered_by_that_run_under_whatever_id_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(f"file://{tmp_path}/storage")
    rested(loop)

    told = asked(capsys, loop.storage, "schedule", "monday", "r-again")

    assert (told["outcome"], told["run_id"], told["status"]) == ("merged", "r-monday", "cancelled")
    assert [found.run_id for found in loop.engine.list()] == ["r-monday"]


@pytest.mark.parametrize("source", ["schedule", "manual"])
def test_what_comes_while_a_run_collects_is_merged_into_it(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(f"file://{tmp_path}/storage")
    first = loop.start_by_hand(CONFIG).run_id

    told = asked(capsys, loop.storage, source, "monday", "r-monday")

    assert (told["outcome"], told["run_id"], told["status"]) == ("merged", first, "pending")
    assert first in told["reason"]
