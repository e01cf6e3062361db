"""Runs the loop: starts a run, or continues, forks or only plans one, and shows it until it ends.

Exit codes: 0 done, 1 failed (resumable), 2 wrong use, 3 waiting for a person, 130 interrupted (resumable).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflows.api import Loop, NotAdmitted, Start
from workflows.caller import Caller, NotAllowed
from workflows.command_line import (
    DONE,
    FAILED,
    INTERRUPTED,
    WAITING,
    WRONG_USE,
    add_caller,
    add_common,
    default_storage,
    set_up_logging,
)
from workflows.configs import RECIPES, ConfigError, PipelineConfig, changed, check_protected, load
from workflows.display import Display
from workflows.engine import CodeChanged, Engine, EngineError, Plan, RunView
from workflows.engine.head import state_folder, stop
from workflows.log import LogError, open_store
from workflows.pipeline import build
from workflows.run_facts import known_run, new_run
from workflows.step_credentials import open_engine
from workflows.summary import summarize, text, write_report


def parser() -> argparse.ArgumentParser:
    """The command line, frozen by `tests/workflows/test_command_line.py`."""
    made = argparse.ArgumentParser(
        prog="python -m workflows.run", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    what = made.add_mutually_exclusive_group()
    what.add_argument("--recipe", choices=sorted(RECIPES), help="a config by name (default: tiny)")
    what.add_argument("--config", type=Path, metavar="FILE.toml", help="sections that change a recipe")
    what.add_argument("--resume", metavar="ID", help="go on with a run")
    what.add_argument("--fork", metavar="ID", help="a new run that shares what ID had finished before --from")
    what.add_argument("--down", action="store_true", help="stop the local Ray, and with it the endpoint")
    made.add_argument("--set", action="append", default=[], metavar="section.key=value", help="change one field")
    made.add_argument("--from", dest="from_step", metavar="STEP", help="first step that a fork runs again")
    made.add_argument("--run-id", metavar="ID", help="id of the new run; a known one is attached to")
    made.add_argument(
        "--source",
        choices=["schedule", "manual"],
        help="who asks: a schedule rests between runs and has a budget, a person has not (default: manual)",
    )
    made.add_argument("--window", metavar="W", help="what it is asked for, such as a data interval: one run each")
    made.add_argument("--dry-run", action="store_true", help="say what would run, and its effects, and stop")
    code = made.add_mutually_exclusive_group()
    code.add_argument("--accept-code", action="store_true", help="go on although the code has changed")
    code.add_argument("--code", choices=["recorded"], help="go on with the code that was recorded")
    add_common(made)
    add_caller(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    made = parser()
    arguments = made.parse_args(argv)
    _check(made, arguments)
    set_up_logging()
    try:
        if arguments.down:
            _may_stop(arguments)
            return down(arguments.storage)
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except NotAllowed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (ConfigError, NotAdmitted, CodeChanged) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except (EngineError, LogError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def down(storage: str) -> int:
    """Stops the Ray head of a storage's state folder."""
    stopped = stop(state_folder(storage))
    print("stopped" if stopped else "nothing was running", file=sys.stderr)
    return DONE


def _check(made: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.fork and not arguments.from_step:
        made.error("--fork ID needs --from STEP")
    if arguments.from_step and not arguments.fork:
        made.error("--from STEP needs --fork ID")
    if (arguments.accept_code or arguments.code) and not arguments.resume:
        made.error("--accept-code and --code go with --resume ID")
    if arguments.resume and (arguments.set or arguments.run_id):
        made.error("--resume ID takes neither --set nor --run-id: a run keeps its config; --fork ID changes it")
    if bool(arguments.source) != bool(arguments.window):
        made.error("--source and --window W go together")
    if arguments.source and (arguments.resume or arguments.fork or arguments.down):
        made.error("--source and --window W are of a new run, not of --resume, --fork or --down")


def _run(arguments: argparse.Namespace) -> int:
    storage = arguments.storage
    engine = open_engine(storage)
    loop = Loop(storage, engine=engine)
    config = None if arguments.resume else _config(engine, arguments)
    if arguments.dry_run:
        return _show_plan(_plan(engine, arguments, config), arguments.json)
    engine.check_storage()
    try:
        begun = _begin(arguments, loop, config)
    except NotAdmitted as refusal:
        if not arguments.source:
            raise
        return _tell(arguments, "suppressed", arguments.run_id, refusal.reason)
    if arguments.source and begun.merged:
        status = engine.view(begun.run_id).status
        return _tell(arguments, "merged", begun.run_id, f"run {begun.run_id} answers for it", status)
    run_id = begun.run_id
    resume = f"python -m workflows.run --resume {run_id}" + _storage_flag(storage)
    print(f"run {run_id}; if it stops, go on with: {resume}", file=sys.stderr)
    code = "accept" if arguments.accept_code else arguments.code or "same"
    with Display() as display:
        try:
            view = loop.drive(run_id, code=code, observer=display)
        except KeyboardInterrupt:
            print(f"\ninterrupted; go on with: {resume}", file=sys.stderr)
            raise
    return _show(engine, view, arguments, resume)


def _begin(arguments: argparse.Namespace, loop: Loop, config: PipelineConfig | None) -> Start:
    """The run to drive, once the caller may have it."""
    engine = loop.engine
    caller = Caller(arguments.storage, engine.store, arguments.acting_as)
    directory, subject = caller.directory, caller.principal.subject
    if arguments.resume:
        caller.require(("resume_run", known_run(engine, directory, arguments.resume)))
        return Start(arguments.resume, merged=False)
    if arguments.fork:
        asked = config or engine.config(arguments.fork)
        caller.require(
            ("fork_run", known_run(engine, directory, arguments.fork)),
            ("start_run", new_run(asked, directory, None, subject)),
        )
        check_protected(asked, protected=directory.alias(asked.deploy.alias).protected)
        return loop.fork(arguments.fork, arguments.from_step, config, by=subject)
    assert config is not None, "only a resume has none"
    caller.require(("start_run", new_run(config, directory, arguments.run_id, subject)))
    check_protected(config, protected=directory.alias(config.deploy.alias).protected)
    if arguments.source:
        asked_for, run_id = arguments.window, arguments.run_id
        return loop.start_once(config, arguments.source, window=asked_for, run_id=run_id, by=subject)
    return loop.start_by_hand(config, run_id=arguments.run_id, by=subject)


def _may_stop(arguments: argparse.Namespace) -> None:
    from workflows.access.resources import INSTALLATION

    Caller(arguments.storage, open_store(arguments.storage), arguments.acting_as).require(("administer", INSTALLATION))


def _config(engine: Engine, arguments: argparse.Namespace) -> PipelineConfig | None:
    if arguments.fork:
        return changed(engine.config(arguments.fork), overrides=arguments.set) if arguments.set else None
    return load(arguments.recipe, arguments.config, arguments.set)


def _plan(engine: Engine, arguments: argparse.Namespace, config: PipelineConfig | None) -> Plan:
    if arguments.resume:
        return engine.plan(arguments.resume)
    if arguments.fork:
        return engine.plan(arguments.fork, config=config, from_step=arguments.from_step)
    return engine.plan(builder=build, config=config)


def _show_plan(plan: Plan, as_json: bool) -> int:
    if as_json:
        print(
            json.dumps(
                [{"step": e.step, "action": e.action, "reason": e.reason, "effects": e.effects} for e in plan.entries]
            )
        )
        return DONE
    for entry in plan.entries:
        print(f"{entry.step:<12} {entry.action:<10} {entry.reason}".rstrip())
        if entry.effects and entry.action != "reused":
            print(f"{'':<12} effects: {entry.effects}")
    return DONE


def _tell(
    arguments: argparse.Namespace, outcome: str, run_id: str | None, reason: str, status: str | None = None
) -> int:
    """Says what became of a cause that gets no run of its own; nothing is wrong."""
    if arguments.json:
        print(json.dumps({"outcome": outcome, "run_id": run_id, "reason": reason, "status": status}))
    else:
        print(f"{outcome}: {reason}")
    return DONE


def _show(engine: Engine, view: RunView, arguments: argparse.Namespace, resume: str) -> int:
    storage = arguments.storage
    report = str(write_report(engine, view, state_folder(storage) / "reports" / view.run_id))
    summary = summarize(engine, view, report)
    if arguments.json:
        print(json.dumps({**summary, "outcome": "admitted"} if arguments.source else summary))
    else:
        print(text(summary))
        if summary["endpoint"]:
            print(f"  stop it    python -m workflows.run --down{_storage_flag(storage)}")
    return _exit_code(view, summary, resume)


def _exit_code(view: RunView, summary: dict[str, Any], resume: str) -> int:
    if view.status == "succeeded":
        return DONE
    if view.status == "parked":
        for wait in summary["waits"]:
            print(f"waiting for {wait['kind']} {wait['name']!r}", file=sys.stderr)
        return WAITING
    for step in summary["steps"]:
        if step["error"]:
            print(f"{step['name']}: {step['error']}", file=sys.stderr)
    print(f"go on with: {resume}", file=sys.stderr)
    return FAILED


def _storage_flag(storage: str) -> str:
    return "" if storage == default_storage() else f" --storage '{storage}'"


if __name__ == "__main__":
    sys.exit(main())
