"""Looks at runs and steers them: `python -m workflows.runs list | show ID | ...`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from workflows.api import Loop
from workflows.caller import Caller, NotAllowed
from workflows.command_line import DONE, FAILED, WAITING, WRONG_USE, add_caller, add_common, set_up_logging
from workflows.display import Display
from workflows.engine import Engine, EngineError, RunView
from workflows.engine.index import RunIndex
from workflows.log import LogError, encode
from workflows.run_facts import gate, known_run
from workflows.step_credentials import open_engine
from workflows.summary import summarize, text

Command = Callable[[Engine, argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    """The command line, frozen by `tests/workflows/test_command_line.py`."""
    made = argparse.ArgumentParser(prog="python -m workflows.runs", description=__doc__)
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, command: Command, about: str, *positional: str, changes: bool = False
    ) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        for argument in positional:
            added.add_argument(argument.lower(), metavar=argument)
        add_common(added)
        if changes:
            add_caller(added)
        added.set_defaults(command=command)
        return added

    verb("list", _list, "all runs")
    verb("show", _show, "one run", "ID")
    verb("watch", _watch, "follow a run until it ends or waits", "ID")
    verb("output", _output, "the result of a step", "ID", "STEP")
    verb("cancel", _cancel, "cancel a run", "ID", changes=True)
    approve = verb("approve", _approve, "decide an approval", "ID", "NAME", changes=True)
    approve.add_argument("--by", required=True, metavar="WHO", help="who decides")
    approve.add_argument("--reject", action="store_true", help="the decision is no")
    verb("verify", _verify, "check a run's history against its hash chain", "ID")
    verb("repair", _repair, "a new run with all that is whole of a damaged one", "ID", changes=True)
    verb("delete", _delete, "bury a run; its records stay as a tombstone", "ID", changes=True)
    verb("resume-all", _resume_all, "go on with every run that nobody drives", changes=True)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    arguments = parser().parse_args(argv)
    set_up_logging()
    engine = open_engine(arguments.storage)
    command: Command = arguments.command
    try:
        return command(engine, arguments)
    except NotAllowed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (EngineError, LogError, LookupError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE


def _list(engine: Engine, arguments: argparse.Namespace) -> int:
    runs = RunIndex(engine).list()  # of a run that is over two records are read, not all
    if arguments.json:
        print(json.dumps([_plain(run) for run in runs]))
        return DONE
    for run in sorted(runs, key=lambda run: run.created_at):
        held = "driven now" if run.held else ""
        print(f"{run.run_id:<28} {run.status:<10} {_moment(run.created_at)}  {run.reason or held}".rstrip())
    return DONE


def _show(engine: Engine, arguments: argparse.Namespace) -> int:
    return _print(engine, engine.view(arguments.id), arguments.json)


def _watch(engine: Engine, arguments: argparse.Namespace) -> int:
    with Display() as display:
        while True:
            view = engine.view(arguments.id)
            display(view)
            if view.status not in ("pending", "running"):
                break
            time.sleep(0.5)
    _print(engine, view, arguments.json)
    return {"succeeded": DONE, "parked": WAITING}.get(view.status, FAILED)


def _output(engine: Engine, arguments: argparse.Namespace) -> int:
    print(json.dumps(encode(engine.output(arguments.id, arguments.step), engine.blobs)))
    return DONE


def _cancel(engine: Engine, arguments: argparse.Namespace) -> int:
    by = _allowed(engine, arguments, "cancel_run").principal.subject
    view = engine.cancel(arguments.id, by=by)
    _print(engine, view, arguments.json)
    _settle(arguments.storage, engine)
    return DONE


def _approve(engine: Engine, arguments: argparse.Namespace) -> int:
    caller = Caller(arguments.storage, engine.store, arguments.acting_as)
    by = caller.decides_as(arguments.by)
    waiting = gate(engine, caller.directory, arguments.id, arguments.name)
    caller.require(("reject" if arguments.reject else "approve", waiting))
    view = engine.approve(arguments.id, arguments.name, by=by, approved=not arguments.reject)
    return _print(engine, view, arguments.json)


def _verify(engine: Engine, arguments: argparse.Namespace) -> int:
    found = engine.verify(arguments.id)
    if arguments.json:
        print(json.dumps(_plain(found)))
    else:
        print(f"{found.length} records are whole" if found.ok else f"record {found.first_bad}: {found.reason}")
    return DONE if found.ok else FAILED


def _repair(engine: Engine, arguments: argparse.Namespace) -> int:
    _allowed(engine, arguments, "fork_run")
    run_id = engine.repair(arguments.id)
    print(json.dumps({"run_id": run_id}) if arguments.json else f"repaired as {run_id}")
    return DONE


def _delete(engine: Engine, arguments: argparse.Namespace) -> int:
    by = _allowed(engine, arguments, "delete_run").principal.subject
    engine.delete(arguments.id, by=by)
    _settle(arguments.storage, engine)
    print(json.dumps({"deleted": arguments.id}) if arguments.json else f"deleted {arguments.id}")
    return DONE


def _resume_all(engine: Engine, arguments: argparse.Namespace) -> int:
    loop = Loop(arguments.storage, engine=engine)
    due = engine.due(include_failed=True)
    if due:
        caller = Caller(arguments.storage, engine.store, arguments.acting_as)
        caller.require(*(("resume_run", known_run(engine, caller.directory, run_id)) for run_id in due))
    views = [loop.drive(run_id) for run_id in due]
    if arguments.json:
        print(json.dumps([summarize(engine, view) for view in views]))
    else:
        print("\n".join(text(summarize(engine, view)) for view in views) or "no run needs it")
    return DONE if all(view.status == "succeeded" for view in views) else FAILED


def _allowed(engine: Engine, arguments: argparse.Namespace, action: str) -> Caller:
    caller = Caller(arguments.storage, engine.store, arguments.acting_as)
    caller.require((action, known_run(engine, caller.directory, arguments.id)))
    return caller


def _print(engine: Engine, view: RunView, as_json: bool) -> int:
    summary = summarize(engine, view)
    if as_json:
        print(json.dumps(summary))
        return DONE
    print(text(summary))
    for step in view.steps:
        note = step.error.message.splitlines()[0] if step.error else ""
        print(f"  {step.name:<16} {step.status:<10} attempt {step.attempts}  {note}".rstrip())
    for wait in view.waits:
        print(f"  waits for {wait.kind} {wait.name!r}")
    return DONE


def _settle(storage: str, engine: Engine) -> None:
    loop = Loop(storage, engine=engine)
    for alias in loop.aliases():
        loop.settle(alias)


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


if __name__ == "__main__":
    sys.exit(main())
