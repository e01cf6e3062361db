"""The runs of a storage as whoever does not drive them has to do with them: looked at, decided about, ended.

Nothing here starts a step or reads the project's code.
"""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Iterable
from typing import Any

from workflows.engine import outsiders
from workflows.engine.beginning import Beginning, beginning
from workflows.engine.claims import holder
from workflows.engine.due import DueRuns
from workflows.engine.errors import InvalidRunId, NoOutput, RunNotFound, StepNotFound
from workflows.engine.runner import Pace, may_be_pickled
from workflows.engine.state import RunFold, RunState
from workflows.engine.telling import RunTeller
from workflows.engine.view import RunSummary, RunView, summary_of, view_of
from workflows.log import Blobs, Draft, Log, Store, Verification, decode, encode, list_logs

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_RESUMES = 5
"""Times that a run is taken up again without anything being finished, before it is given up."""


class Runs:
    """The runs of a storage.

    Args:
        store: The storage.
        pace: How long a runner that is not heard of counts as living, and how often is looked.
    """

    def __init__(self, store: Store, pace: Pace | None = None) -> None:
        self.store = store
        self.blobs = Blobs(store)
        self.pace = pace or Pace()
        self._fold = RunFold(self.blobs)

    def view(self, run_id: str) -> RunView:
        """The run as it is now, with live progress."""
        return self._view(run_id, self._log(run_id).state)

    def list(self, *, deleted: bool = False, among: Iterable[str] | None = None) -> builtins.list[RunSummary]:
        """All runs of the storage, by id.

        Args:
            deleted: Also those of which only the tombstone is left.
            among: Only these; whoever knows which runs are over need not have all of them read.
        """
        found = []
        for run_id in self.run_ids() if among is None else among:
            state = self._log(run_id).state
            if deleted or state.status != "deleted":
                found.append(summary_of(run_id, state, held=self._held(run_id, state)))
        return found

    def run_ids(self) -> builtins.list[str]:
        """Ids of all runs, deleted ones too; reads none of them."""
        return [name.removeprefix("runs/") for name in list_logs(self.store, "runs")]

    def output(self, run_id: str, step: str = "") -> Any:
        """The result of a step, by default of the run.

        Raises:
            StepNotFound: No such step.
            NoOutput: It has not succeeded.
        """
        state = self._log(run_id).state
        step = step or state.output
        if step not in state.steps:
            raise StepNotFound(run_id, step, tuple(state.steps))
        if state.status == "deleted" or state.steps[step].status != "succeeded":
            raise NoOutput(run_id, step, state.status if state.status == "deleted" else state.steps[step].status)
        return decode(state.steps[step].result, self.blobs, pickle=may_be_pickled(state, step))

    def config(self, run_id: str) -> Any:
        """The config that the run was started with."""
        return self.beginning(run_id).config

    def beginning(self, run_id: str) -> Beginning:
        """How the run began; one read, however long it became.

        Raises:
            RunNotFound: There is none of that id.
        """
        return beginning(checked(run_id), self.blobs)

    def cancel(self, run_id: str, *, by: str = "", reason: str = "") -> RunView:
        """Cancels a run: at once if nobody drives it, else its runner stops the steps in flight and says what would
        not end.

        Raises:
            RunOver: It has ended otherwise.
        """
        log = self._log(run_id)
        log.append(
            lambda state: outsiders.cancel(
                self.store, run_id, state, by=by, reason=reason, at=self.store.now(), ttl_s=self.pace.ttl_s
            )
        )
        return self._view(run_id, log.state)

    def approve(
        self,
        run_id: str,
        name: str,
        *,
        by: str,
        approved: bool = True,
        reason: str = "",
        subject: str | None = None,
    ) -> RunView:
        """Decides an approval that a run waits for, by its name or its step's id. The first decision stands.

        Args:
            run_id: The run.
            name: What is to be approved.
            by: Who decides.
            approved: The decision.
            reason: Why.
            subject: SHA-256 of what the decider has seen; refused if something else waits.

        Raises:
            NotWaiting: It is not open yet, decided otherwise, or has expired.
            SubjectMismatch: It is about something else.
        """
        log = self._log(run_id)
        log.append(
            lambda state: outsiders.decide(
                run_id, state, name, approved=approved, by=by, reason=reason, subject=subject, at=self.store.now()
            )
        )
        return self._view(run_id, log.state)

    def deliver(self, run_id: str, event: str, payload: Any = None, *, by: str = "") -> outsiders.Delivery:
        """Delivers an event: `accepted` (also before anybody waits for it), `duplicate`, or `late`. Safe to repeat."""
        encoded = encode(payload, self.blobs)
        answers: builtins.list[outsiders.Delivery] = []

        def decide(state: RunState) -> Draft | None:
            answer, draft = outsiders.deliver(state, event, encoded, by=by, at=self.store.now())
            answers.append(answer)
            return draft

        record = self._log(run_id).append(decide)
        return "accepted" if record is not None else answers[-1]

    def verify(self, run_id: str) -> Verification:
        """Checks the run's whole history against its hash chain."""
        if self.store.head(f"runs/{checked(run_id)}/{0:020}.json") is None:
            raise RunNotFound(run_id, self.store.uri)
        return Log(self.store, f"runs/{run_id}", self._fold).verify()

    def delete(self, run_id: str, *, by: str = "") -> None:
        """Buries a run: its records stay as a tombstone, what its steps kept goes.

        Raises:
            RunBusy: A living runner drives it; cancel it first.
        """
        self._log(run_id).append(
            lambda state: outsiders.bury(self.store, run_id, state, by=by, at=self.store.now(), ttl_s=self.pace.ttl_s)
        )
        for folder in ("steps", "live"):
            for info in builtins.list(self.store.list(f"runs/{run_id}/{folder}")):
                self.store.delete(info.key)

    def give_up(self, run_id: str, *, max_resumes: int = MAX_RESUMES) -> bool:
        """Ends a run as `dead` if it was taken up so often without finishing anything; says whether it did."""
        log = self._log(run_id)
        if log.state.claims_without_progress < max_resumes:
            return False
        reason = f"taken up {log.state.claims_without_progress} times without finishing anything"
        log.append(lambda state: outsiders.condemn(run_id, state, reason=reason, at=self.store.now()))
        return True

    def due(self, *, include_failed: bool = False, among: Iterable[str] | None = None) -> builtins.list[str]:
        """Runs that nobody drives and that have something to do; of all, or of some."""
        return DueRuns(self).look(self.run_ids() if among is None else among, include_failed=include_failed)

    def wait(self, run_id: str, *, timeout_s: float) -> RunView:
        """Waits until a run that somebody else drives has ended or is parked.

        Raises:
            TimeoutError: It has not.
        """
        log = self._log(run_id)
        deadline = time.monotonic() + timeout_s
        while log.refresh().status in {"pending", "running"}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id!r} is still {log.state.status} after {timeout_s:g} s")
            time.sleep(self.pace.poll_s)
        return self._view(run_id, log.state)

    def _view(self, run_id: str, state: RunState) -> RunView:
        return view_of(run_id, state, self.store, held=self._held(run_id, state))

    def _held(self, run_id: str, state: RunState) -> bool:
        return holder(self.store, run_id, state, self.pace.ttl_s) is not None

    def _log(self, run_id: str) -> Log[RunState]:
        log = Log(self.store, f"runs/{checked(run_id)}", self._fold, tell=RunTeller(run_id, self._fold))
        if not log.state.exists:
            raise RunNotFound(run_id, self.store.uri)
        return log


def checked(run_id: str) -> str:
    """The id, if it is a safe path.

    Raises:
        InvalidRunId: It is not.
    """
    if not RUN_ID.fullmatch(run_id):
        raise InvalidRunId(run_id, RUN_ID.pattern)
    return run_id
