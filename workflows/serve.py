"""Brings the endpoint up as the release logs say, and keeps it so: `python -m workflows.serve [--once]`.

Takes a storage, gives the endpoint's URL. Needs no run: after a lost machine this alone makes the champion answer
again. Safe to repeat, and to run beside a run or the reconciler.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict

from steps.common.releases import released_aliases
from steps.deploy import Endpoint, converge
from steps.deploy.errors import DeployError
from workflows.command_line import DONE, FAILED, INTERRUPTED, WRONG_USE, add_common
from workflows.engine.errors import EngineError
from workflows.engine.head import connect, state_folder
from workflows.log import LogError, open_store
from workflows.log.redaction import Redactor, environment_secrets, redact_handlers

INTERVAL_S = 10.0
"""Time between two convergences: a lost replica is replaced by Serve, a lost head by this."""

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    redact_handlers(Redactor(environment_secrets(os.environ)), logging.getLogger())
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        aliases = [options.alias] if options.alias else released_aliases(open_store(options.storage))
        if not aliases:
            print(f"nothing is released in {options.storage}: run `python -m workflows.run` first", file=sys.stderr)
            return WRONG_USE
        return _serve(options.storage, aliases, once=options.once, as_json=options.json, stop=stop)
    except (DeployError, EngineError, LogError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return FAILED


def serve_once(storage: str, aliases: Sequence[str]) -> list[Endpoint]:
    """Connects to Ray, starting a head of our own if there is none, and converges each alias."""
    uri = open_store(storage).uri
    connect(state_folder(uri))
    return [converge(uri, alias) for alias in aliases]


def _serve(storage: str, aliases: Sequence[str], *, once: bool, as_json: bool, stop: threading.Event) -> int:
    shown: set[str] = set()
    while not stop.is_set():
        try:
            for endpoint in serve_once(storage, aliases):
                if once or endpoint.started or endpoint.removed or endpoint.url not in shown:
                    _show(endpoint, as_json=as_json)
                shown.add(endpoint.url)
        except (DeployError, EngineError, LogError, OSError) as error:
            if once:
                raise
            logger.warning("not converged, trying again in %g s: %s", INTERVAL_S, error)
        if once:
            return DONE
        stop.wait(INTERVAL_S)
    return INTERRUPTED


def _show(endpoint: Endpoint, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(endpoint)), flush=True)
        return
    champion = f"version {endpoint.champion}" if endpoint.champion else "no version released yet"
    print(f"endpoint {endpoint.url}  ({champion}, converged in {endpoint.seconds:.1f} s)", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workflows.serve", description="Brings the endpoint up.")
    add_common(parser)
    parser.add_argument("--alias", help="public model name; all of the storage when not given")
    parser.add_argument("--once", action="store_true", help="converge once and end; the endpoint stays")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
