"""What the commands have in common: exit codes, and the flags that each of them takes."""

from __future__ import annotations

import argparse
import logging
import os

from workflows.log.redaction import Redactor, environment_secrets, redact_handlers

DONE, FAILED, WRONG_USE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130
PRINCIPALS, POLICIES = "EVERLOOP_PRINCIPALS", "EVERLOOP_POLICIES"
"""Variables: the team's file of principals, and folders of policies of its own."""

DEFAULT_STORAGE = "everloop-state/storage"


def default_storage() -> str:
    """`EVERLOOP_STORAGE`, else a folder beside you."""
    return os.environ.get("EVERLOOP_STORAGE", DEFAULT_STORAGE)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds what every command takes."""
    parser.add_argument(
        "--storage", default=default_storage(), metavar="URI", help="file:// or s3:// (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")


def add_caller(parser: argparse.ArgumentParser) -> None:
    """Adds what every command takes that changes something."""
    parser.add_argument(
        "--as",
        dest="acting_as",
        metavar="PRINCIPAL",
        help="who calls, as Kind::id; in a team the key in EVERLOOP_API_KEY must be theirs",
    )


def set_up_logging() -> Redactor:
    """Logs to standard error, at the level that `EVERLOOP_LOG` names, without the secrets of the environment."""
    logging.basicConfig(level=os.environ.get("EVERLOOP_LOG", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    redactor = Redactor(environment_secrets(os.environ))
    redact_handlers(redactor, logging.getLogger())
    return redactor
