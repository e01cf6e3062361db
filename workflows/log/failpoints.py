"""Named places where a test can stop, break or kill the process. Inert unless the environment arms them.

`EVERLOOP_FAILPOINT` holds specs; `EVERLOOP_FAILPOINT_FILE` names a file with specs, read at every place that is passed,
so that a test can arm and disarm a process that is running:

    log.append.before-create=kill               SIGKILL to this process
    log.append.after-create=raise               raises `FailpointHit`
    file.write.before-fsync@3=enospc            the third time: OSError "No space left on device"
    blobs.put.after-write=hang, other=raise     waits until the spec is gone

The idea is that of FreeBSD's fail(9).
"""

from __future__ import annotations

import ast
import errno
import importlib.util
import logging
import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ENV = "EVERLOOP_FAILPOINT"
FILE_ENV = "EVERLOOP_FAILPOINT_FILE"
ACTIONS = ("kill", "raise", "enospc", "hang")

_logger = logging.getLogger(__name__)
_hits: Counter[str] = Counter()  # Times an armed place was passed by this process; `name@3` needs a memory.
_hits_lock = threading.Lock()


class FailpointHit(Exception):
    """An armed failpoint with the action `raise` was passed."""


def failpoint(name: str) -> None:
    """Marks a place at which the process may be made to fail. Costs two look-ups in the environment when inert.

    Raises:
        FailpointHit: It is armed with `raise`.
        OSError: It is armed with `enospc`.
    """
    if ENV in os.environ or FILE_ENV in os.environ:
        _pass(name)


def failpoint_names(*packages: str) -> tuple[str, ...]:
    """All failpoints in the source of the packages (by default of this one), sorted.

    They are read from the source, so a place cannot exist without being listed.

    Raises:
        ValueError: A call computes its name instead of spelling it.
    """
    names: set[str] = set()
    for package in packages or (__package__,):
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ValueError(f"no package {package!r}")
        folders = spec.submodule_search_locations or ()
        files = [file for folder in folders for file in sorted(Path(folder).rglob("*.py"))]
        for file in files or [Path(spec.origin or "")]:
            names |= _names_in(file)
    return tuple(sorted(names))


def _pass(name: str) -> None:
    armed = _armed().get(name)
    if armed is None:
        return
    at, action = armed
    with _hits_lock:
        _hits[name] += 1
        hit = _hits[name]
    if at is not None and hit != at:
        return
    _logger.warning("failpoint %s: %s (pass %d)", name, action, hit)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise FailpointHit(name)
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    while _armed().get(name) == armed:
        time.sleep(0.01)


def _armed() -> dict[str, tuple[int | None, str]]:
    text = os.environ.get(ENV, "")
    file = os.environ.get(FILE_ENV)
    if file:
        with suppress(FileNotFoundError):  # Not armed yet.
            text += "," + Path(file).read_text(encoding="utf-8")
    armed: dict[str, tuple[int | None, str]] = {}
    for spec in text.replace("\n", ",").split(","):
        if not spec.strip():
            continue
        place, _, action = spec.strip().partition("=")
        name, _, at = place.partition("@")
        if action not in ACTIONS or (at and not at.isdigit()):
            raise ValueError(f"{ENV}: {spec.strip()!r} is not `name[@n]=action` with an action of {ACTIONS}")
        armed[name] = (int(at) if at else None, action)
    return armed


def _names_in(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called != "failpoint":
            continue
        argument = node.args[0] if node.args else None
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            raise ValueError(f"{file}:{node.lineno}: a failpoint is named by a literal")  # noqa: TRY004 - bad source
        names.add(argument.value)
    return names
