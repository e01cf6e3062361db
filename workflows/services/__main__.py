"""The programs around the loop: `python -m workflows.services up | down | status | ports | env | watch`.

Exit codes: 0 all is as asked, 1 a service failed, died or is unhealthy, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from workflows.command_line import DONE, FAILED, WRONG_USE
from workflows.engine.head import state_folder
from workflows.services.config import load_config
from workflows.services.display import live, status_table
from workflows.services.errors import ServicesConfigError, ServicesError
from workflows.services.principals_file import write_principals
from workflows.services.process import MARK
from workflows.services.secret_file import owner
from workflows.services.service import Service
from workflows.services.site import Site, open_site
from workflows.services.supervisor import down, statuses, up
from workflows.services.table import NAMES, chosen, ports, recorded_names, services
from workflows.services.watch import Watch, Watcher


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m workflows.services", description=(__doc__ or "").splitlines()[0].rstrip(".")
    )
    made.add_argument(
        "what",
        choices=["up", "down", "status", "ports", "env", "watch"],
        help="env prints what commands of the loop need, for a shell; watch starts again what dies, and is part of up",
    )
    made.add_argument("--only", type=_names, default=(), metavar="NAMES", help=f"some of: {','.join(NAMES)}")
    made.add_argument("--without", type=_names, default=(), metavar="NAMES", help="all but these")
    made.add_argument("--config", type=Path, metavar="FILE.toml", help="changes of workflows/services/services.toml")
    made.add_argument("--state", type=Path, metavar="FOLDER", help="default: EVERLOOP_STATE, else everloop-state")
    made.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        config = load_config(arguments.config)
        if arguments.what == "ports":
            return _ports(ports(config), arguments.json)
        state = arguments.state or state_folder("s3://")
        names = chosen(arguments.only, arguments.without)
        site = open_site(config, state, names | recorded_names(state.absolute()))
        if arguments.what == "env":
            return _env(site, arguments.json)
        if arguments.what == "watch":
            return _watch(site)
        if arguments.what == "up" and not arguments.only:
            names -= {service.name for service in services(site) if service.missing()}
            site = replace(site, names=site.names & (names | recorded_names(site.state)))
        do = {"up": _up, "down": _down, "status": _status}[arguments.what]
        return do(site, [service for service in services(site) if service.name in names], arguments.json)
    except ServicesConfigError as error:
        _tell(f"error: {error}")
        return WRONG_USE
    except ServicesError as error:
        _tell(f"error: {error}")
        return FAILED


def _up(site: Site, those: Sequence[Service], as_json: bool) -> int:
    with live([service.name for service in those]) as observe:
        last = up(site, those, observe)
    failed = [progress for progress in last.values() if progress.step in ("failed", "skipped")]
    if as_json:
        _say(json.dumps([asdict(progress) for progress in last.values()]))
    else:
        for progress in failed:
            _tell(f"error: {progress.name}: {progress.error}")
        _console().print(status_table(statuses(those)))
        _say('\nfor this shell:  eval "$(python -m workflows.services env)"')
    return FAILED if failed else DONE


def _down(site: Site, those: Sequence[Service], as_json: bool) -> int:
    ended = {}
    for name, was_running in down(site, those):
        ended[name] = was_running
        if was_running:
            _tell(f"stopped {name}")
    if not any(ended.values()):
        _tell("nothing was running")
    if as_json:
        _say(json.dumps(ended))
    return DONE


def _status(_: Site, those: Sequence[Service], as_json: bool) -> int:
    found = statuses(those)
    if as_json:
        _say(json.dumps([asdict(one) for one in found]))
    else:
        _console().print(status_table(found))
    return FAILED if any(one.state in ("died", "unhealthy") for one in found) else DONE


def _watch(site: Site) -> int:
    """Until it is ended."""
    os.environ.pop(MARK, None)  # what is started from here is no part of the watch
    watcher = Watcher(site.config.watch, _tell)
    while True:
        # What was started after this began is watched too.
        known = replace(site, names=site.names | recorded_names(site.state))
        watcher.look(known, [service for service in services(known) if service.name != Watch.name])
        time.sleep(site.config.watch.interval_s)


def _ports(found: dict[str, int], as_json: bool) -> int:
    if as_json:
        _say(json.dumps(found))
    else:
        for name, port in found.items():
            _say(f"{name:<14}{port}")
    return DONE


def _env(site: Site, as_json: bool) -> int:
    write_principals(site)
    found = site.loop_environment(owner())
    if "triggers" in site.names:
        found["EVERLOOP_DOOR"] = site.url("triggers")
    if as_json:
        _say(json.dumps(found))
    else:
        for name, value in found.items():
            _say(f"export {name}={shlex.quote(value)}")
    return DONE


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    sys.exit(main())
