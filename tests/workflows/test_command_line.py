"""The command line is a promise: a flag that goes, comes or changes its meaning is changed here on purpose."""

from __future__ import annotations

import argparse

import pytest

from workflows import run, runs

RUN = {
    "--recipe", "--config", "--resume", "--fork", "--down", "--set", "--from", "--run-id", "--dry-run",
    "--accept-code", "--code", "--storage", "--json", "--as", "--help",
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
