"""Admission: the one place where a run of the loop begins, goes on and ends. The command line and the triggers call it.

A signal is admitted as a run, once per cause; merged into a run that is under way; or suppressed, with the reason. The
signal log of the alias says which run holds it; the run's journal says where that run stands. No write spans the two:
the admission carries what is needed to start the run, and `settle` brings the signal log in line with the journal after
a crash between them.
"""

from __future__ import annotations

import getpass
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from steps.common import signals
from steps.common.releases import open_release_log
from steps.common.results import Release
from steps.common.signals import Admitted, Merged, Outcome, Signal, SignalState, Suppressed
from workflows.configs import PipelineConfig
from workflows.engine import Engine, EngineError, RunNotFound, RunView
from workflows.engine.launch import new_run_id
from workflows.following import STAGES, Follower
from workflows.log import Log, NotFound, failpoint, list_logs
from workflows.pipeline import build

logger = logging.getLogger(__name__)


class NotAdmitted(RuntimeError):
    """A run that was asked for is not to be; the message says why, and what to do."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"not started: {reason}; {advice}")
        self.reason, self.advice = reason, advice

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.advice)


@dataclass(frozen=True, slots=True)
class Start:
    """What became of a signal: a run of its own, or one that was under way already.

    Attributes:
        run_id: The run.
        merged: Whether it was under way already.
    """

    run_id: str
    merged: bool


class Loop:
    """The loop in one storage.

    Args:
        storage: Storage URI.
        engine: The durable engine over it; made from the storage if not given.
    """

    def __init__(self, storage: str, *, engine: Engine | None = None) -> None:
        self.engine = engine or Engine(storage)
        self.storage = self.engine.store.uri

    def signal(
        self,
        config: PipelineConfig,
        source: signals.Source,
        *,
        window: str,
        reason: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Signal:
        """Makes a signal about the champion that answers now.

        The champion is no part of its key: a window of a schedule, an alert or a request that is told again after a
        promotion is the same cause.
        """
        alias = config.deploy.alias
        found = signals.signal(alias, source, window=window, champion=None, reason=reason, evidence=evidence)
        return replace(found, champion=self._champion(alias))

    def start_once(
        self,
        config: PipelineConfig,
        source: signals.Source,
        *,
        window: str,
        run_id: str | None = None,
        by: str | None = None,
    ) -> Start:
        """Starts the run of a window, once, however often it is asked for and whatever was promoted since.

        A schedule is held back by cooldown and budget, as every signal is; who asks by hand (`manual`) is not.

        Args:
            config: What to run.
            source: Who speaks.
            window: The stretch of time that it is about, such as the data interval of a schedule.
            run_id: Id of its run; by default derived from the cause. One that exists is attached to, if it was asked
                the very same.
            by: Who asks; by default the user of the operating system.

        Returns:
            The window's own run, or, as `merged`, another run that answers for it.

        Raises:
            NotAdmitted: It is suppressed; the reason is in the signal log.
            workflows.engine.RunMismatch: The id is taken by another run.
        """
        by = by or getpass.getuser()
        found = self.signal(config, source, window=window, evidence={"by": by})
        run_id = run_id or signals.run_id_of(found)
        begun = self.start(config, found, run_id=run_id, override_by=by if source == "manual" else None)
        if begun.run_id != run_id:
            return begun
        if begun.merged:
            self.engine.start(build, config, run_id=run_id, labels=_labels(config))
        return Start(run_id, merged=False)

    def start_by_hand(self, config: PipelineConfig, *, run_id: str | None = None, by: str | None = None) -> Start:
        """Starts a run because a person asks: neither cooldown nor budget hold it back, an active run does.

        Args:
            config: What to run.
            run_id: Its id; one that exists is attached to, if it was asked the very same.
            by: Who asks; by default the user of the operating system.

        Raises:
            NotAdmitted: Another run holds the alias.
            workflows.engine.RunMismatch: The id is taken by another run.
        """
        run_id = run_id or new_run_id()
        found = self.signal(config, "manual", window=run_id)
        begun = self._ask_by_hand(config, found, {}, run_id=run_id, by=by)
        if begun.merged:
            self.engine.start(build, config, run_id=run_id, labels=_labels(config))
        return begun

    def start(
        self,
        config: PipelineConfig,
        found: Signal,
        *,
        run_id: str | None = None,
        override_by: str | None = None,
        fork_of: tuple[str, str] | None = None,
    ) -> Start:
        """Asks for a run; safe to repeat after a crash anywhere.

        Args:
            config: What to run.
            found: Why.
            run_id: Its id; by default derived from the cause.
            override_by: Who pushes it past cooldown and budget.
            fork_of: A run that it shares the finished steps of, and the step from which on it runs its own.

        Raises:
            NotAdmitted: It is suppressed; the reason is in the signal log.
            workflows.engine.RunNotFound: There is no such run to fork.
            workflows.engine.StepNotFound: It has no such step.
        """
        return self._ask(config, found, self._fork_request(config, fork_of), run_id=run_id, override_by=override_by)

    def fork(self, run_id: str, from_step: str, config: PipelineConfig | None, *, by: str | None = None) -> Start:
        """Starts a run that shares what another one has finished before a step.

        Raises:
            NotAdmitted: Another run holds the alias.
            workflows.engine.RunNotFound: There is no such run.
            workflows.engine.StepNotFound: It has no such step.
        """
        config = config or self.engine.config(run_id)
        assert isinstance(config, PipelineConfig), "runs of the loop have its config"
        new_id, extra = new_run_id(), self._fork_request(config, (run_id, from_step))
        found = self.signal(config, "manual", window=new_id, reason="fork", evidence=extra["fork"])
        return self._ask_by_hand(config, found, extra, run_id=new_id, by=by)

    def drive(self, run_id: str, *, code: Any = "same", observer: Callable[[RunView], None] | None = None) -> RunView:
        """Runs a run until it ends or only waits, and keeps the signal log in line.

        Raises:
            NotAdmitted: Another run holds the alias by now.
        """
        config = self.engine.config(run_id)
        log = self._signals(config.deploy.alias)
        view = self.engine.view(run_id)
        if view.status != "succeeded":
            try:
                if view.mended and log.refresh().run_of(run_id) is None:
                    self._take_over(log, view, config)
                signals.started(log, run_id)
            except signals.RunNotActive as error:
                raise NotAdmitted(str(error), _advice("active_run", log.state)) from error
        follow = Follower(log, run_id, observer)
        view = self.engine.drive(run_id, code=code, observer=follow)
        self._finish(log, view, config)
        return view

    def settle(self, alias: str) -> None:
        """Brings the signal log in line with the journals: begins what was admitted only, ends what has ended."""
        log = self._signals(alias)
        active = log.refresh().active
        if active is None:
            return
        self._begin_if_missing(log)
        try:
            view = self.engine.view(active.run_id)
        except RunNotFound:
            return
        if view.status != "failed":
            self._finish(log, view, self.engine.config(active.run_id))

    def aliases(self) -> list[str]:
        """Every alias that ever had a signal."""
        return [name.removeprefix("signals/") for name in list_logs(self.engine.store, "signals")]

    def start_due(self, alias: str) -> Start | None:
        """Starts what has waited longest and may run now, with the config of the run that made the champion; a fork is
        one of the latest good run by then.
        """
        state = self._signals(alias).refresh()
        base = self._base_config(alias, state)
        if base is None:
            return None
        for waiting in signals.due(state, base.signals, self.engine.store.now()):
            parent = self._parent(alias, waiting.request)
            config = self.engine.config(parent[0]) if parent else base
            return self.start(config, waiting.signal, fork_of=parent)
        return None

    def last_good(self, alias: str) -> str | None:
        """The latest run of an alias that has succeeded and is still there, whatever became of its model."""
        self.settle(alias)
        for past in reversed(self._signals(alias).refresh().finished):
            if past.outcome not in ("failed", "cancelled") and self._has_succeeded(past.run_id):
                return past.run_id
        return None

    def _base_config(self, alias: str, state: SignalState) -> PipelineConfig | None:
        """The config of a whole round; before the first release that of a request that waits."""
        champion = open_release_log(self.engine.store, alias).refresh().champion if state.pending else None
        if champion is not None:
            config = self.engine.config(champion.run_id)
            assert isinstance(config, PipelineConfig), "runs of the loop have its config"
            return config
        asked = (waiting.request for waiting in state.pending.values() if waiting.request)
        return next((PipelineConfig.model_validate(request["config"]) for request in asked), None)

    def _parent(self, alias: str, request: Any) -> tuple[str, str] | None:
        """What a request that has waited forks now; None: it asks for a whole run, or nothing is left to fork."""
        asked = request.get("fork") if request else None
        if asked is None:
            return None
        run_id = self.last_good(alias) or (asked["of"] if self._has_succeeded(asked["of"]) else None)
        return (run_id, asked["from"]) if run_id else None

    def _has_succeeded(self, run_id: str) -> bool:
        try:
            return self.engine.view(run_id).status == "succeeded"
        except RunNotFound:
            return False

    def _fork_request(self, config: PipelineConfig, fork_of: tuple[str, str] | None) -> dict[str, Any]:
        """What an admission says of a fork; what cannot be forked is refused here, and never holds the alias."""
        if fork_of is None:
            return {}
        run_id, from_step = fork_of
        self.engine.plan(run_id, config=config, from_step=from_step)
        return {"fork": {"of": run_id, "from": from_step}}

    def _ask_by_hand(
        self, config: PipelineConfig, found: Signal, extra: Mapping[str, Any], *, run_id: str, by: str | None
    ) -> Start:
        begun = self._ask(config, found, extra, run_id=run_id, override_by=by or getpass.getuser())
        if begun.run_id != run_id:
            log = self._signals(config.deploy.alias)
            raise NotAdmitted(f"run {begun.run_id} has just begun", _advice("active_run", log.refresh()))
        return begun

    def _ask(
        self,
        config: PipelineConfig,
        found: Signal,
        extra: Mapping[str, Any],
        *,
        run_id: str | None,
        override_by: str | None,
    ) -> Start:
        """The one way to a run: admitted with all that is needed to begin it, then begun; `settle` does the second half
        if this process dies between.
        """
        self.engine.check_storage()
        log = self._signals(config.deploy.alias)
        self.settle(config.deploy.alias)
        request = {"config": config.model_dump(mode="json", by_alias=True), **extra}
        decision = signals.admit(
            log,
            found,
            config.signals,
            now=self.engine.store.now(),
            override_by=override_by,
            run_id=run_id,
            request=request,
            collects="fork" not in extra or STAGES.get(extra["fork"]["from"]) == "collecting",
        )
        match decision:
            case Admitted(admitted_id):
                failpoint("api.after-admission")
                self._begin(log, admitted_id, request, found)
                return Start(admitted_id, merged=False)
            case Merged(merged_id):
                self._begin_if_missing(log)
                return Start(merged_id, merged=True)
            case Suppressed(reason, message, _, _):
                raise NotAdmitted(message, _advice(reason, log.state))

    def _begin_if_missing(self, log: Log[SignalState]) -> None:
        active = log.refresh().active
        if active is None or active.started or active.request is None:
            return
        try:
            cause = self.engine.view(active.run_id).cause
        except RunNotFound:
            cause = None
        if cause is not None and cause["key"] == active.signal.key:
            signals.started(log, active.run_id)
            return
        try:
            self._begin(log, active.run_id, active.request, active.signal)
        except (EngineError, NotFound) as error:
            logger.warning("run %s was admitted and cannot begin: %s", active.run_id, error)

    def _begin(self, log: Log[SignalState], run_id: str, request: Mapping[str, Any], found: Signal) -> None:
        config = PipelineConfig.model_validate(request["config"])
        parent, cause, labels = request.get("fork"), asdict(found), _labels(config)
        try:
            if parent is None:
                self.engine.start(build, config, run_id=run_id, cause=cause, labels=labels)
            else:
                self.engine.fork(parent["of"], parent["from"], config, run_id, cause=cause, labels=labels)
        except (EngineError, NotFound):
            # It will never begin, so it must not hold the alias.
            now, champion = self.engine.store.now(), self._champion(config.deploy.alias)
            signals.finished(log, run_id, "cancelled", config.signals, now=now, champion=champion)
            raise
        failpoint("api.after-journal")
        signals.started(log, run_id)

    def _take_over(self, log: Log[SignalState], view: RunView, config: PipelineConfig) -> None:
        """Hands the alias from a run with a corrupt record to the one that goes on with what is whole of it."""
        now, champion = self.engine.store.now(), self._champion(config.deploy.alias)
        if log.state.active is not None and log.state.active.run_id == view.mended:
            signals.finished(log, view.mended, "cancelled", config.signals, now=now, champion=champion)
        found = self.signal(config, "manual", window=view.run_id, reason="repair", evidence={"of": view.mended})
        signals.admit(log, found, config.signals, now=now, override_by=getpass.getuser(), run_id=view.run_id)

    def _finish(self, log: Log[SignalState], view: RunView, config: PipelineConfig) -> None:
        outcome = self._outcome(view)
        if outcome is None:
            return
        now, champion = self.engine.store.now(), self._champion(config.deploy.alias)
        try:
            signals.finished(log, view.run_id, outcome, config.signals, now=now, champion=champion)
        except signals.RunNotActive:
            logger.info("run %s ended as %s, but another run holds the alias by now", view.run_id, outcome)

    def _outcome(self, view: RunView) -> Outcome | None:
        if view.status in ("failed", "dead"):
            return "failed"
        if view.status in ("cancelled", "deleted"):
            return "cancelled"
        if view.status != "succeeded":
            return None
        release = self.engine.output(view.run_id, "deploy")
        assert isinstance(release, Release), "the step deploy gives a release"
        evaluation = self.engine.output(view.run_id, "evaluate")
        if release.state == "unchanged" and evaluation.verdict == "reject":
            return "rejected"
        return release.state

    def _champion(self, alias: str) -> str | None:
        champion = open_release_log(self.engine.store, alias).refresh().champion
        return champion.version if champion else None

    def _signals(self, alias: str) -> Log[SignalState]:
        return signals.open_signal_log(self.engine.store, alias)


def _labels(config: PipelineConfig) -> dict[str, str]:
    """What stands in each message about a run."""
    return {"alias": config.deploy.alias, "recipe": config.recipe}


def _advice(reason: str, state: SignalState) -> str:
    if reason == "active_run" and state.active:
        run_id = state.active.run_id
        return f"go on with it: --resume {run_id}, or drop it: python -m workflows.runs cancel {run_id}"
    return "it is counted in the signal log"
