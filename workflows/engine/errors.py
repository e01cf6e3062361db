"""What can go wrong around a run.

    EngineError
      GraphError              the graph cannot be written down as data
        NotANode              the builder or a step gave something that is not a bound step
        NotImportable         a function that no other process can find: a closure, a lambda, a hidden name
        DuplicateStep         two steps of one graph ask for the same id
      InvalidRunId            a run id that is no safe path
      RunNotFound             no such run in this storage
      StepNotFound            no such step in this run
      NoOutput                the step has not succeeded
      RunMismatch             the run id is taken by a run with other inputs
      CodeChanged             the code of the run differs from the checkout
      RunBusy                 a living runner holds the run
      RunOver                 the run has ended for good
      NotWaiting              no such wait is open
      SubjectMismatch         the approval names another subject than the one that waits
      HeadError               no Ray head could be found, started or reached

A step's own error is never raised here: it is carried in the run as `StepFailure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflows.log import Refused


class EngineError(Exception):
    """Base of all errors of the engine. The positional arguments rebuild it, so that it pickles."""


class GraphError(EngineError):
    """The graph cannot be written down as data."""


class NotANode(GraphError):
    def __init__(self, where: str, found: str) -> None:
        super().__init__(where, found)

    def __str__(self) -> str:
        where, found = self.args
        return f"{where} must be a bound step (`some_step.bind(...)`), not {found}"


class NotImportable(GraphError):
    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)

    def __str__(self) -> str:
        name, reason = self.args
        return f"{name} cannot be run by another process: {reason}"


class DuplicateStep(GraphError):
    def __init__(self, step: str) -> None:
        super().__init__(step)

    def __str__(self) -> str:
        return f"two steps of the graph are named {self.args[0]!r}"


class InvalidRunId(EngineError):
    def __init__(self, run_id: str, rule: str) -> None:
        super().__init__(run_id, rule)

    def __str__(self) -> str:
        run_id, rule = self.args
        return f"run id {run_id!r} must match {rule}"


class RunNotFound(EngineError):
    def __init__(self, run_id: str, storage: str) -> None:
        super().__init__(run_id, storage)

    def __str__(self) -> str:
        run_id, storage = self.args
        return f"no run {run_id!r} in {storage}"


class StepNotFound(EngineError):
    def __init__(self, run_id: str, step: str, known: Sequence[str]) -> None:
        super().__init__(run_id, step, tuple(known))

    def __str__(self) -> str:
        run_id, step, known = self.args
        shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
        return f"run {run_id!r} has no step {step!r}; it has {shown}"


class NoOutput(EngineError):
    def __init__(self, run_id: str, step: str, status: str) -> None:
        super().__init__(run_id, step, status)

    def __str__(self) -> str:
        run_id, step, status = self.args
        return f"step {step!r} of run {run_id!r} has no output: it is {status}"


class RunMismatch(EngineError):
    """The id is taken. `difference` holds one line per differing value."""

    def __init__(self, run_id: str, difference: Sequence[str]) -> None:
        super().__init__(run_id, tuple(difference))
        self.difference = tuple(difference)

    def __str__(self) -> str:
        return f"run {self.args[0]!r} exists with other inputs:\n  " + "\n  ".join(self.difference)


class CodeChanged(EngineError):
    """The checkout is not the code that the run was started with. `difference` holds one line per changed part."""

    def __init__(self, run_id: str, difference: Sequence[str]) -> None:
        super().__init__(run_id, tuple(difference))
        self.difference = tuple(difference)

    def __str__(self) -> str:
        return (
            f"the code of run {self.args[0]!r} has changed:\n  "
            + "\n  ".join(self.difference)
            + "\naccept the new code, or run the recorded code"
        )


class RunBusy(EngineError, Refused):
    def __init__(self, run_id: str, runner: str, silent_s: float) -> None:
        super().__init__(run_id, runner, silent_s)

    def __str__(self) -> str:
        run_id, runner, silent_s = self.args
        return f"run {run_id!r} is held by {runner}, heard of {silent_s:.0f} s ago"


class RunOver(EngineError, Refused):
    def __init__(self, run_id: str, status: str) -> None:
        super().__init__(run_id, status)

    def __str__(self) -> str:
        run_id, status = self.args
        return f"run {run_id!r} is {status}; fork it to run its steps again"


class NotWaiting(EngineError, Refused):
    def __init__(self, run_id: str, name: str, reason: str) -> None:
        super().__init__(run_id, name, reason)

    def __str__(self) -> str:
        run_id, name, reason = self.args
        return f"run {run_id!r} does not wait for {name!r}: {reason}"


class SubjectMismatch(EngineError, Refused):
    def __init__(self, name: str, expected: str, given: str) -> None:
        super().__init__(name, expected, given)

    def __str__(self) -> str:
        name, expected, given = self.args
        return f"approval {name!r} is for the subject {expected}, not for {given}"


class HeadError(EngineError):
    def __init__(self, what: str, detail: str) -> None:
        super().__init__(what, detail)

    def __str__(self) -> str:
        what, detail = self.args
        return f"{what}: {detail}"


@dataclass(frozen=True, slots=True)
class StepFailure:
    """How a step failed, carried as data: the class may not exist where it is read.

    Attributes:
        type: `module:qualname` of the exception's class.
        message: Its text, cut to a bound.
        traceback: The last part of its traceback, cut to a bound.
        kind: `error` (raised by the step), `lost` (its process or node died, or one that it had work on),
            `out_of_memory`, `timeout`.
    """

    type: str
    message: str
    traceback: str = ""
    kind: str = "error"

    def __str__(self) -> str:
        name = self.type.rpartition(":")[2]
        return f"{name}: {self.message}" if self.message else name
