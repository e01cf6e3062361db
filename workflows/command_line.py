"""What the commands have in common: exit codes, and the flags that each of them takes."""

from __future__ import annotations

import argparse
import os

DONE, FAILED, WRONG_USE, WAITING, INTERRUPTED = 0, 1, 2, 3, 130
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
