"""What the end of a job, or of a run, means to the task. Pure.

The driver's exit codes are those of `python -m workflows.run`: 0 done, 1 failed (resumable), 2 not to be started as
asked, 3 waits for a person, 130 interrupted (resumable). Its last line on standard output is one JSON object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

WRONG_USE, WAITING = 2, 3
TAIL_LINES = 20
_GIVEN_UP = frozenset({"cancelled", "deleted", "dead"})

End = Literal["succeeded", "suppressed", "failed", "killed", "lost", "unreachable", "stopped", "refused"]
"""How a job or run ended.

succeeded    done; there is a result
suppressed   admission said no, with the reason: nothing is wrong
failed       it failed, and may be resumed by another attempt
killed       its driver died, which is no failure of the run: another attempt goes on
lost         the cluster that ran it is gone: another attempt goes on
unreachable  nobody could be asked for too long
stopped      somebody stopped or cancelled it
refused      a wrong token or a wrong command: another attempt would meet the same
"""

_NOT_ADMITTED = re.compile(r"^error: not started: (?P<reason>.*)$", re.MULTILINE)
_RUNNING = re.compile(r"--resume (?P<run>[A-Za-z0-9][A-Za-z0-9_.-]*)")
_MISMATCH = re.compile(r"^error: run '[^']+' exists with other inputs", re.MULTILINE)
_BUSY = re.compile(r"^error: run '(?P<run>[^']+)' is held by ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended; crosses from the triggerer to the worker as a dictionary.

    Attributes:
        end: How.
        run_id: The run of the loop.
        reason: For people.
        result: What the task gives on.
    """

    end: End
    run_id: str = ""
    reason: str = ""
    result: Mapping[str, Any] | None = None

    def dump(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Self:
        """From plain data."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Follow:
    """The driver has ended and the run has not: it is to be watched through the door.

    Attributes:
        run_id: Which run.
        reason: Why.
    """

    run_id: str
    reason: str


def judge_job(  # noqa: PLR0911 - a table, one line a case
    state: str, exit_code: int | None, message: str, logs: str, workflow: str
) -> Outcome | Follow:
    """Says what the end of a job means.

    Args:
        state: Ray's word.
        exit_code: Of the driver, if there is one.
        message: Ray's reason.
        logs: What the driver wrote.
        workflow: The run that it was to drive.
    """
    told = last_json(logs)
    run_id = str(told.get("run_id") or workflow)
    if state == "SUCCEEDED":
        if told.get("outcome") == "merged" and told.get("status") != "succeeded":
            return Follow(run_id, "merged into a run that is under way")
        return _suppressed(told, run_id) or Outcome("succeeded", run_id, result=told or {"run_id": workflow})
    if state == "STOPPED":
        return Outcome("stopped", run_id, message or "the job was stopped")
    if exit_code == WAITING:
        return Follow(run_id, "waits for a person")
    if (busy := _BUSY.search(logs)) is not None:
        return Follow(busy["run"], "another runner drives the run")
    tail = "\n".join(logs.splitlines()[-TAIL_LINES:])
    if _MISMATCH.search(logs) is not None:
        return Outcome("refused", run_id, tail)
    if exit_code == WRONG_USE:
        return _suppressed(told, run_id) or _not_admitted(logs) or Outcome("refused", run_id, tail or message)
    # A driver that was killed has no exit code, a negative one, or 128 + the signal of its shell.
    if exit_code is None or exit_code < 0 or exit_code > 128:
        return Outcome("killed", run_id, message or f"the driver ended with {exit_code}")
    if told.get("status") in _GIVEN_UP and (over := judge_run(told, run_id)) is not None:
        return over
    return Outcome("failed", run_id, tail or message)


def judge_run(run: Mapping[str, Any], followed: str) -> Outcome | None:
    """Says what the status of a run means; None: it goes on."""
    status, reason = str(run["status"]), str(run.get("reason") or "")
    if status == "succeeded":
        return Outcome("succeeded", followed, result=run)
    if status in ("cancelled", "deleted"):
        return Outcome("stopped", followed, f"run {followed} is {status}: {reason}")
    if status == "dead":
        return Outcome("refused", followed, f"run {followed} was given up: {reason}")
    if status == "failed":
        return Outcome("failed", followed, f"run {followed} failed: {reason}")
    return None


def is_abandoned(run: Mapping[str, Any]) -> bool:
    """Whether it should be going on and nobody drives it."""
    return run["status"] in ("pending", "running") and run.get("held") is False


def last_json(logs: str) -> dict[str, Any]:
    """The object on the last line that holds one, else an empty one."""
    for line in reversed(logs.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def _suppressed(told: Mapping[str, Any], run_id: str) -> Outcome | None:
    if told.get("outcome") != "suppressed":
        return None
    return Outcome("suppressed", run_id, str(told.get("reason") or "suppressed"))


def _not_admitted(logs: str) -> Outcome | Follow | None:
    """A run that is not to be: another one holds the alias and is watched in its place, or the reason is told."""
    if (said := _NOT_ADMITTED.search(logs)) is None:
        return None
    if (running := _RUNNING.search(said["reason"])) is not None:
        return Follow(running["run"], said["reason"])
    return Outcome("suppressed", reason=said["reason"])
