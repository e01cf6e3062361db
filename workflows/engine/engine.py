"""The engine: start, drive, look at and steer durable runs in a storage.

engine = Engine("file:///tmp/everloop")
run_id = engine.start(build, config)
view = engine.drive(run_id)
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from workflows.engine import head, outsiders
from workflows.engine.claims import claim
from workflows.engine.code import Project, difference
from workflows.engine.fork import keep_shared, mend, reused_steps
from workflows.engine.launch import Launch, check_same, new_run_id, prepare
from workflows.engine.plan import Plan, plan_launch, plan_resume
from workflows.engine.present import CodeMode, again, code_changes, present_code, unfinished
from workflows.engine.runner import EnvironmentOf, Pace, Runner
from workflows.engine.runs import MAX_RESUMES, Runs, checked
from workflows.engine.schedule import Bounds, is_due
from workflows.engine.state import RunState
from workflows.engine.view import RunView, view_of
from workflows.engine.waits import KINDS
from workflows.log import Log, failpoint, open_store, probe_store


class Engine(Runs):
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
        super().__init__(open_store(storage), pace)
        self.bounds = bounds or Bounds()
        self._state = head.state_folder(storage) if state is None else state
        self._environment_of = environment_of
        self._connect = connect or (lambda: head.connect(self._state))
        self._given_project = project
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
        run_id = checked(run_id or new_run_id())
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
            return view_of(run_id, state, self.store, held=False)
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
            observer(view_of(run_id, state, self.store, held=True))

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
        return view_of(run_id, log.state, self.store, held=False)

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
        new_id = checked(run_id_new or new_run_id())
        labels = state.created.get("labels") if labels is None else labels
        return self._record(new_id, launch, cause=cause, labels=labels, parent=parent, reused=reused)

    def repair(self, run_id: str, run_id_new: str | None = None) -> str:
        """Answers a corrupt record: a new run with all records before it. The old one stays as it is.

        Raises:
            ValueError: Nothing is wrong with the run, or nothing is left of it.
        """
        found = self.verify(run_id)
        new_id = checked(run_id_new or f"{run_id[:56]}-r{found.length}"[:64])
        mend(self.blobs, run_id, new_id, found)
        # Its last claim was copied too, and nobody holds this run.
        self._log(new_id).append(lambda state: outsiders.release(state, at=self.store.now()))
        return new_id

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
