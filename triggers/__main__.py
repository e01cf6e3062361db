"""The HTTP door: `python -m triggers --settings FILE`, or `python -m triggers openapi` for the description of its API.

Exit codes: 0 ended by a signal, 1 the storage or the port does not answer, 2 wrong use or settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from triggers.app import bare_app, create_app
from triggers.auth import Access, local_directory, private_secret, webhook_verifiers
from triggers.drivers import Drivers
from triggers.loop import DurableLoop
from triggers.redelivery import redelivering
from triggers.settings import Settings, load_settings
from workflows.access import (
    LOCAL_POLICIES,
    TEAM_POLICIES,
    AccessError,
    Approvals,
    AuditLog,
    Authorizer,
    FollowedDirectory,
    Principals,
    Redactor,
    StoredSeenIds,
    audit_key,
    redact_handlers,
)
from workflows.api import Loop
from workflows.command_line import DONE, FAILED, WRONG_USE
from workflows.engine import Engine
from workflows.engine.head import state_folder
from workflows.log import InvalidUri, LogError

_log = logging.getLogger("triggers")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m triggers", description=(__doc__ or "").splitlines()[0])
    made.add_argument("what", nargs="?", choices=["serve", "openapi"], default="serve", help="default: %(default)s")
    made.add_argument("--settings", type=Path, metavar="FILE", help="TOML; docs/reference.md lists the keys")
    made.add_argument("--port", type=int, metavar="PORT", help="instead of the one in the settings")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    made = parser()
    arguments = made.parse_args(argv)
    if arguments.what == "openapi":
        sys.stdout.write(json.dumps(bare_app().openapi(), indent=2, sort_keys=True) + "\n")
        return DONE
    if arguments.settings is None:
        made.error("serving needs --settings FILE")
    logging.basicConfig(level=os.environ.get("EVERLOOP_LOG", "INFO"), format="%(asctime)s %(name)s: %(message)s")
    try:
        settings = load_settings(arguments.settings)
        if arguments.port is not None:
            settings = Settings.model_validate({**dict(settings), "port": arguments.port})
        with opened(settings) as app:
            return serve(app, settings)
    except (ValueError, AccessError, InvalidUri, PermissionError) as error:
        sys.stderr.write(f"error: {error}\n")
        return WRONG_USE
    except (LogError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED


@contextmanager
def opened(settings: Settings) -> Iterator[FastAPI]:
    """The app over the storage that the settings name. Closes the audit log at the end.

    Raises:
        AccessError: Principals, policies or keys are wrong.
        workflows.log.LogError: The storage does not answer, or is none.
    """
    redact_handlers(
        Redactor([s.get_secret_value() for texts in settings.webhook_secrets.values() for s in texts]),
        logging.getLogger(),
    )
    state = settings.state or state_folder(settings.storage) / "door"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = Engine(settings.storage)
    default_policies = (TEAM_POLICIES,) if settings.principals else (TEAM_POLICIES, LOCAL_POLICIES)
    audit = AuditLog(engine.store, f"door-{socket.gethostname()}", audit_key(state / "audit.key", os.environ))
    try:
        directory: Principals
        if settings.principals is not None:
            directory = FollowedDirectory(settings.principals, audit.event)
        else:
            directory = local_directory(settings.storage, state / "api.key")
        authorizer = Authorizer(audit, settings.policies or default_policies)
        drivers = Drivers(settings.storage, state / "runs")
        loop = DurableLoop(Loop(settings.storage, engine=engine), directory, settings.aliases, drivers.launch)
        verifiers = webhook_verifiers(
            {sender: tuple(s.get_secret_value() for s in texts) for sender, texts in settings.webhook_secrets.items()},
            StoredSeenIds(engine.store),
        )
        approvals = Approvals(engine.store, authorizer, loop.decide)
        access = Access(directory, authorizer, audit, approvals, verifiers)
        with redelivering(approvals):
            yield create_app(settings, loop, access, _session_key(settings, state))
    finally:
        audit.close()


def _session_key(settings: Settings, state: Path) -> bytes:
    given = settings.session_key
    return (private_secret(state / "session.key") if given is None else given.get_secret_value()).encode()


def serve(app: FastAPI, settings: Settings) -> int:
    """Answers until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # paths hold approval tokens; metrics and the audit log say who asked for what
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    _log.info("the door of %s at http://%s:%d", settings.storage, settings.host, settings.port)
    # uvicorn raises the signal again once it has shut down; the process must live on to close the audit log.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(config)
    server.run()
    return DONE if server.started else FAILED


if __name__ == "__main__":
    sys.exit(main())
