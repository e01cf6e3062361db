"""`n8n_flows/start`: installs n8n, sets it up and runs it headless. Each command may be repeated.

n8n_flows/start install                  n8n into the user's cache (about five minutes, 3 GB, once)
n8n_flows/start [start] --settings FILE  install, provision, start, check each webhook with and without authentication
n8n_flows/start run --settings FILE      the same in the foreground, for a container
n8n_flows/start stop --settings FILE
n8n_flows/start status --settings FILE   exit code 0: it runs and its webhooks answer as they must; 3: it does not run
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from n8n_flows.errors import N8nError
from n8n_flows.install import install, installation
from n8n_flows.provision import check, provision
from n8n_flows.server import N8n
from n8n_flows.settings import load_settings

NOT_RUNNING = 3


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="n8n_flows/start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", default="start", choices=["install", "start", "run", "stop", "status"])
    parser.add_argument("--settings", type=Path, help="TOML file, see n8n_flows/settings.example.toml")
    given = parser.parse_args(arguments)
    try:
        if given.command == "install":
            _say(f"n8n is in {install(installation()).folder}")
            return 0
        if given.settings is None:
            parser.error("--settings FILE is needed")
        return _run(given.command, N8n(load_settings(given.settings), installation()))
    except N8nError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(command: str, n8n: N8n) -> int:
    if command == "status":
        process = n8n.process()
        if process is None:
            _say("n8n does not run")
            return NOT_RUNNING
        check(n8n, timeout_s=5)
        _say(f"n8n runs as process {process.pid} at {n8n.settings.server.url}")
        return 0
    with n8n.locked():
        if command == "stop":
            _say("n8n is stopped" if n8n.stop() else "n8n did not run")
            return 0
        install(n8n.installed)
        provision(n8n)
        if command == "run":
            os.chdir(n8n.state)
            os.execve(n8n.argv[0], n8n.argv, n8n.environment())  # noqa: S606 - takes this process's place
        process = n8n.start()
        for what, status in check(n8n).items():
            _say(f"{what}: {status}")
    _say(f"n8n runs as process {process.pid} at {n8n.settings.server.url}, log {n8n.log}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
