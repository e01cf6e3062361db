"""The engine: start, drive, look at and steer durable runs in a storage.

engine = Engine("file:///tmp/everloop")
run_id = engine.start(build, config)
view = engine.drive(run_id)
"""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from workflows.engine import head, outsiders
from workflows.engine.beginning import Beginning, beginning
from workflows.engine.claims import claim, holder
from workflows.engine.code import Project, difference
from workflows.engine.errors import InvalidRunId, NoOutput, RunNotFound, StepNotFound
from workflows.engine.fork import keep_shared, mend, reused_steps
from workflows.engine.launch import Launch, check_same, new_run_id, prepare
from workflows.engine.plan import Plan, plan_launch, plan_resume
from workflows.engine.present import CodeMode, again, code_changes, present_code, unfinished
from workflows.engine.runner import EnvironmentOf, Pace, Runner, may_be_pickled
from workflows.engine.schedule import Bounds, is_due
from workflows.engine.state import RunFold, RunState
from workflows.engine.telling import RunTeller
from workflows.engine.view import RunSummary, RunView, summary_of, view_of
from workflows.engine.waits import KINDS
from workflows.log import Blobs, Draft, Log, Verification, decode, encode, failpoint, list_logs, open_store, probe_store

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_RESUMES = 5
"""Times that a run is taken up again without anything being finished, before it is given up."""


class Engine:
    """Durable runs in one storage. Opening it touches no Ray; only a step that must run does."""

    def __init__(
        self,
        storage: str,
        *,
        state: Path | None = None,
        bounds: Bounds | None = None,
        pace: Pace | None = None,
        project: Project | None = None,
        connect: Callable[[], None] | None = None,
        environment_of: EnvironmentOf | None = None,
    ) -> None:
        """Opens the storage.

        Args:
            storage: Its URI, or a folder.
            state: Folder of this machine's own Ray head; see `head.state_folder`.
            bounds: How much a runner does at a time.
            pace: How fast it looks around and gives up.
            project: Where the project's modules are; by default what `sys.path` says.
            connect: Connects to Ray; by default to `RAY_ADDRESS`, or to this machine's own head.
            environment_of: Environment variables for the attempts at a step; see `EnvironmentOf`.
        """
        self.store = open_store(storage)
        self.blobs = Blobs(self.store)
        self.bounds = bounds or Bounds()
        self.pace = pace or Pace()
        self._state = head.state_folder(storage) if state is None else state
        self._environment_of = environment_of
        self._connect = connect or (lambda: head.connect(self._state))
        self._given_project = project
        self._fold = RunFold(self.blobs)
        self._checked_storage = False

    @cached_property
    def project(self) -> Project:
        """The project's modules, as they were when first asked for."""
        return self._given_project or Project()

    def check_storage(self) -> None:
        """Checks once that the storage can hold a log; costs three writes. Each new run asks for it.

        Raises:
            workflows.log.LyingStore: It takes a second conditional create of one key.
            workflows.log.NoHardLinks: A folder without hard links.
        """
        if not self._checked_storage:
            probe_store(self.store)
            self._checked_storage = True

    def start(
        self,
        builder: Callable[[Any], Any],
        config: Any,
        *,
        run_id: str | None = None,
        cause: Any = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Records a run, which `drive` then runs; or attaches to it, if it exists and was asked the very same.

        Args:
            builder: Module-level function that makes the graph's last node of a config.
            config: Anything that has an encoding: JSON, a dataclass, a pydantic model.
            run_id: By default a new one.
            cause: Why it is started, as JSON.
            labels: Stand in what people are told of the run; `alias` in a field of its own.

        Raises:
            InvalidRunId: The id is no safe path.
            RunMismatch: The id is taken by a run with another builder, config or code; shows the difference.
            GraphError: The graph cannot be written down as data.
        """
        run_id = _checked(run_id or new_run_id())
        launch = prepare(builder, config, self.blobs, self.project)
        return self._record(run_id, launch, cause=cause, labels=labels)

    def drive(
        self, run_id: str, *, code: CodeMode = "same", observer: Callable[[RunView], None] | None = None
    ) -> RunView:
        """Claims the run and runs it until it is done, failed, cancelled or parked. A run that has ended is only shown.

        Args:
            run_id: The run.
            code: `same` refuses changed code, `accept` goes on with it, `recorded` runs the code that was recorded.
            observer: Is shown the run now and then.

        Raises:
            RunNotFound: No such run.
            RunBusy: A living runner drives it.
            CodeChanged: The code has changed; shows the difference.
            Fenced: Another runner has taken the run over meanwhile.
        """
        log = self._log(run_id)
        state = log.state
        if state.over or (state.status == "parked" and not is_due(self._fold, state, self.store.now())):
            return view_of(run_id, state, self.store)
        changes = code_changes(run_id, state, code, self.blobs, self.project)
        expected = state.claim.index if state.claim else None
        failpoint("engine.drive.before-claim")
        claimed = log.append(
            lambda now: claim(
                self.store,
                run_id,
                now,
                ttl_s=self.pace.ttl_s,
                expected=expected,
                at=self.store.now(),
                changes=changes,
            )
        )
        assert claimed is not None, "a claim is made or refused"
        failpoint("engine.drive.after-claim")

        def observe(state: RunState) -> None:
            assert observer is not None, "asked for only with an observer"
            observer(view_of(run_id, state, self.store))

        runner = Runner(
            self.store,
            log,
            self._fold,
            run_id,
            claimed.epoch,
            bounds=self.bounds,
            pace=self.pace,
            connect=self._connect,
            observe=observe if observer else None,
            recorded_code=state.created["bundle"]["sha256"] if code == "recorded" else "",
            environment_of=self._environment_of,
        )
        runner.drive()
        return view_of(run_id, log.state, self.store)

    def plan(
        self,
        run_id: str = "",
        *,
        builder: Callable[[Any], Any] | None = None,
        config: Any = None,
        from_step: str = "",
    ) -> Plan:
        """What a command would do, step by step: `drive` of a run, `start` of a builder, `fork` of a run from a
        step.
        """
        if not run_id:
            if builder is None:
                raise ValueError("plan needs a run id or a builder")
            return plan_launch(prepare(builder, config, self.blobs, self.project))
        state = self._log(run_id).state
        if from_step:
            launch = again(state, config, self.blobs, self.project)
            return plan_launch(launch, reused_steps(run_id, state, launch, from_step))
        present = present_code(state, self.project)
        changed = difference(state.code, present, unfinished(state))
        return plan_resume(run_id, state, present, changed)

    def fork(
        self,
        run_id: str,
        from_step: str,
        config: Any = None,
        run_id_new: str | None = None,
        *,
        cause: Any = None,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Records a new run by the present code that takes over what the old one has finished, but for `from_step`,
        what a new config changes, and all that follows.

        Args:
            run_id: The run to fork.
            from_step: The first step to run again.
            config: Another config; by default the recorded one.
            run_id_new: By default a new one.
            cause: Why, as JSON.
            labels: By default those of the old run.

        Raises:
            RunNotFound: No such run.
            StepNotFound: The graph has no such step.
        """
        state = self._log(run_id).state
        launch = again(state, config, self.blobs, self.project)
        reused = reused_steps(run_id, state, launch, from_step)
        keep_shared(reused, self.blobs)
        parent = {"run": run_id, "length": state.length, "from_step": from_step}
        new_id = _checked(run_id_new or new_run_id())
        labels = state.created.get("labels") if labels is None else labels
        return self._record(new_id, launch, cause=cause, labels=labels, parent=parent, reused=reused)

    def view(self, run_id: str) -> RunView:
        """The run as it is now, with live progress."""
        return view_of(run_id, self._log(run_id).state, self.store)

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
                held = holder(self.store, run_id, state, self.pace.ttl_s) is not None
                found.append(summary_of(run_id, state, held=held))
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
        return beginning(_checked(run_id), self.blobs)

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
        return view_of(run_id, log.state, self.store)

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
        return view_of(run_id, log.state, self.store)

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
        if self.store.head(f"runs/{_checked(run_id)}/{0:020}.json") is None:
            raise RunNotFound(run_id, self.store.uri)
        return Log(self.store, f"runs/{run_id}", self._fold).verify()

    def repair(self, run_id: str, run_id_new: str | None = None) -> str:
        """Answers a corrupt record: a new run with all records before it. The old one stays as it is.

        Raises:
            ValueError: Nothing is wrong with the run, or nothing is left of it.
        """
        found = self.verify(run_id)
        new_id = _checked(run_id_new or f"{run_id[:56]}-r{found.length}"[:64])
        mend(self.blobs, run_id, new_id, found)
        # Its last claim was copied too, and nobody holds this run.
        self._log(new_id).append(lambda state: outsiders.release(state, at=self.store.now()))
        return new_id

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

    def resume_all(self, *, include_failed: bool = False, max_resumes: int = MAX_RESUMES) -> builtins.list[RunView]:
        """Drives every run on that nobody drives and that has something to do, one after the other.

        Args:
            include_failed: Also those that have failed.
            max_resumes: A run that was taken up so often without finishing anything is given up as `dead`.
        """
        views = []
        for run_id in self.due(include_failed=include_failed):
            given_up = self.give_up(run_id, max_resumes=max_resumes)
            views.append(self.view(run_id) if given_up else self.drive(run_id))
        return views

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
        now = self.store.now()
        found = []
        for summary in self.list(among=among):
            if summary.status in {"pending", "running"} or (include_failed and summary.status == "failed"):
                wanted = not summary.held
            else:
                wanted = summary.status == "parked" and is_due(self._fold, self._log(summary.run_id).state, now)
            if wanted:
                found.append(summary.run_id)
        return found

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
        return view_of(run_id, log.state, self.store)

    def _log(self, run_id: str) -> Log[RunState]:
        log = Log(self.store, f"runs/{_checked(run_id)}", self._fold, tell=RunTeller(run_id, self._fold))
        if not log.state.exists:
            raise RunNotFound(run_id, self.store.uri)
        return log

    def _record(
        self,
        run_id: str,
        launch: Launch,
        *,
        cause: Any,
        labels: Mapping[str, str] | None,
        parent: Any = None,
        reused: Any = None,
    ) -> str:
        log = Log(self.store, f"runs/{run_id}", self._fold)
        if not log.state.exists:
            self.check_storage()
            addresses = [address for address in launch.code["functions"] if address not in KINDS]
            bundle = self.project.bundle(addresses)
            draft = launch.draft(
                run_id,
                self.blobs,
                bundle,
                at=self.store.now(),
                cause=cause,
                labels=labels,
                parent=parent,
                reused=reused,
            )
            log.append(lambda state: None if state.exists else draft)
        check_same(run_id, log.state, launch, self.blobs)
        return run_id


def _checked(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise InvalidRunId(run_id, RUN_ID.pattern)
    return run_id
