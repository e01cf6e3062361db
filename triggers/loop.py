"""The loop behind the door: admission by `workflows.api`, the journal by the engine, drivers as processes."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from steps.common import signals
from steps.common.releases import open_release_log
from steps.common.signals import Signal, SignalState, Source, open_signal_log
from triggers.loop_api import AliasView, InvalidRequest, NotStarted, RunFacts, SignalOutcome, Started
from triggers.overrides import overridden, recipe_config
from triggers.run_facts import FactsOfRuns
from triggers.settings import AliasSettings
from workflows.access import ApprovalDecision, Principals
from workflows.api import Loop, NotAdmitted
from workflows.configs import ConfigError, PipelineConfig, changed, check_protected, load
from workflows.engine import NoOutput, RunNotFound, RunOver, RunSummary, RunView, StepNotFound
from workflows.engine.index import RunIndex
from workflows.engine.state import OVER
from workflows.log import list_logs
from workflows.outbox import OutboxState, open_outbox, post_notice

logger = logging.getLogger(__name__)

PUSH_FROM = "train"
"""New code trains anew on the data and hyperparameters that the last good run found."""

_TOLD = ("version", "train", "evaluate")


class DurableLoop:
    """`LoopApi` over a storage.

    Args:
        loop: Admission, and the engine below it.
        directory: Says whose an alias is, and whether it is protected.
        aliases: Settings by alias.
        launch: Has a process drive a run; called once a run is admitted, resumed or decided about.
    """

    def __init__(
        self,
        loop: Loop,
        directory: Principals,
        aliases: Mapping[str, AliasSettings],
        launch: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._engine = loop.engine
        self._store = loop.engine.store
        self._aliases = aliases
        self._launch = launch
        self._facts = FactsOfRuns(loop.engine, directory)
        self._runs = RunIndex(loop.engine)
        self._outbox = open_outbox(self._store)
        self._outbox_lock = threading.Lock()

    def check(self) -> None:
        """Returns if the storage answers."""
        self._store.head("runs/ready")

    def describe(self, recipe: str, overrides: Mapping[str, Any]) -> RunFacts:
        """The facts of a run that would be started so."""
        return self._facts.of_config(recipe_config(recipe, overrides))

    def facts(self, run_id: str) -> RunFacts:
        """The facts of a run."""
        return self._facts.of_run(run_id)

    def start(self, recipe: str, overrides: Mapping[str, Any], *, by: str, reason: str, key: str) -> Started:
        """Starts a run past cooldown and budget, because somebody asks."""
        config = recipe_config(recipe, overrides)
        run_id = _run_id(key)
        known = self._known(run_id, lambda recorded: recorded == config)
        if known is not None:
            return known
        # Without the champion in its key: the same request is the same cause, whoever answers by then.
        found = signals.signal(
            config.deploy.alias, "manual", window=key, champion=None, evidence={"by": by, "reason": reason}
        )
        return self._admit(config, found, run_id, override_by=by)

    def list_runs(self) -> Sequence[RunSummary]:
        """All runs of the loop, the newest first."""
        return sorted(self._runs.list(), key=lambda found: (found.created_at, found.run_id), reverse=True)

    def view(self, run_id: str) -> RunView:
        """A run as of now."""
        return self._runs.view(run_id)

    def resume(self, run_id: str, *, by: str) -> RunView:  # noqa: ARG002 - who asked stands in the audit log
        """Launches a driver for the run."""
        view = self._engine.view(run_id)
        if view.status in OVER:
            raise RunOver(run_id, view.status)
        active = self._signals(self.facts(run_id).alias).active
        if active is not None and active.run_id != run_id:
            raise NotStarted(f"run {active.run_id} holds the alias; resume or cancel that one")
        changed = self._engine.plan(run_id).difference
        if changed:
            raise NotStarted(
                "the code has changed since: " + "; ".join(changed)[:1000] + "; fork the run, or resume it by hand"
            )
        self._launch(run_id)
        return view

    def cancel(self, run_id: str, *, by: str, reason: str) -> RunView:
        """Cancels a run, and frees its alias if nobody drives it."""
        view = self._engine.cancel(run_id, by=by, reason=reason)
        self._loop.settle(self.facts(run_id).alias)
        return view

    def fork(self, run_id: str, from_step: str, overrides: Mapping[str, Any], *, by: str, key: str) -> Started:
        """Starts a run that shares what another one finished before a step."""
        parent = self._config(run_id)
        config = overridden(parent, overrides)
        new_id = _run_id(key)
        known = self._known(new_id, lambda recorded: recorded == config)
        if known is not None:
            return known
        evidence = {"by": by, "of": run_id, "from": from_step}
        found = signals.signal(
            config.deploy.alias, "manual", window=key, champion=None, reason="fork", evidence=evidence
        )
        return self._admit(config, found, new_id, override_by=by, parent=(run_id, from_step))

    def waiting_digest(self, run_id: str, gate: str) -> str:
        """Digest of the artifact that stands at a gate now."""
        waits = [wait for wait in self._engine.view(run_id).waits if wait.kind == "approval"]
        found = [wait.subject for wait in waits if gate in (wait.name, wait.step)]
        return found[-1] if found else ""

    def evidence(self, run_id: str) -> tuple[str, ...]:
        """The headlines of the data, the model and its evaluation."""
        found = []
        for step in _TOLD:
            try:
                result = self._engine.output(run_id, step)
            except (StepNotFound, NoOutput):
                continue
            if hasattr(result, "headline"):
                found.append(str(result.headline()))
        return tuple(found)

    def decide(self, decision: ApprovalDecision) -> None:
        """Writes the decision into the run, bound to what its decider saw, and has the run go on."""
        view = self._engine.approve(
            decision.run,
            decision.gate,
            by=decision.by,
            approved=decision.granted,
            reason=decision.reason,
            subject=decision.digest,
        )
        if view.status == "parked":
            self._launch(decision.run)

    def signal(
        self, alias: str, source: str, *, window: str, reason: str, evidence: Mapping[str, Any]
    ) -> SignalOutcome:
        """Reports a cause. A cause that is known is not written down again."""
        if source not in get_args(Source):
            raise InvalidRequest(f"signal {source!r} is none of {', '.join(get_args(Source))}")
        champion = open_release_log(self._store, alias).refresh().champion
        # The key is without the champion: an alert that is still told after a promotion is the same one. The signal
        # itself names the champion, so that it merges with the run that answers the same trouble.
        found = signals.signal(
            alias, _source(source), window=window, champion=None, reason=reason or None, evidence=evidence
        )
        found = replace(found, champion=champion.version if champion else None)
        told = _told_before(self._signals(alias), found)
        if told is not None:
            return told
        try:
            config, parent = self._config_for(alias, source)
            started = self._admit(config, found, signals.run_id_of(found), parent=parent)
        except InvalidRequest as refusal:
            logger.warning("signal %s of %s starts nothing: %s", source, alias, refusal)
            return SignalOutcome("suppressed", reason=str(refusal))
        except NotStarted as refusal:
            waits = any(found.key in pending.keys for pending in self._signals(alias).pending.values())
            return SignalOutcome("collected" if waits else "suppressed", reason=str(refusal))
        return SignalOutcome(started.outcome, started.run_id)

    def alias_facts(self, alias: str) -> RunFacts | None:
        """The facts of an alias, or None if the loop has never heard of it."""
        return self._facts.of_alias(alias) if alias in self._names() else None

    def list_aliases(self) -> Sequence[AliasView]:
        """Every alias that has signals, a release or settings, by name."""
        now = self._store.now()
        views = []
        for alias in self._names():
            state = self._signals(alias)
            views.append(
                AliasView(
                    alias=alias,
                    facts=self._facts.of_alias(alias),
                    stage=state.stage(now),
                    signals=state,
                    release=open_release_log(self._store, alias).refresh(),
                    at=now,
                )
            )
        return views

    def notify(self, body: Mapping[str, Any], *, key: str) -> bool:
        """Records a notice for the outbox."""
        return post_notice(self._store, body, key)

    def outbox(self) -> OutboxState:
        """What was told, and to whom."""
        with self._outbox_lock:
            return self._outbox.refresh()

    def _admit(
        self,
        config: PipelineConfig,
        found: Signal,
        run_id: str,
        *,
        override_by: str | None = None,
        parent: tuple[str, str] | None = None,
    ) -> Started:
        try:
            check_protected(config, protected=self._facts.of_config(config).protected)
            begun = self._loop.start(config, found, run_id=run_id, override_by=override_by, fork_of=parent)
        except NotAdmitted as error:
            raise NotStarted(str(error)) from error
        except (ConfigError, StepNotFound) as error:
            raise InvalidRequest(str(error)) from error
        if not begun.merged:
            self._launch(begun.run_id)
        return Started(begun.run_id, "merged" if begun.merged else "started")

    def _known(self, run_id: str, is_same: Callable[[Any], bool]) -> Started | None:
        """The run of a request that was made before; driven again if the door died before it could launch it.

        Raises:
            InvalidRequest: The key was used for another request.
        """
        try:
            recorded = self._engine.config(run_id)
        except RunNotFound:
            return None
        if not is_same(recorded):
            raise InvalidRequest(f"the idempotency key was used before, for another request (run {run_id})")
        if self._engine.view(run_id).status == "pending":
            self._launch(run_id)
        return Started(run_id, "merged")

    def _config(self, run_id: str) -> PipelineConfig:
        self.facts(run_id)  # a run of another program has none
        config: PipelineConfig = self._engine.config(run_id)
        return config

    def _config_for(self, alias: str, source: str) -> tuple[PipelineConfig, tuple[str, str] | None]:
        """What a signal starts: what made the champion, or the alias's recipe. A push forks the last run that ended
        well.
        """
        if source == "push":
            good = self._loop.last_good(alias)
            if good is not None:
                return self._config(good), (good, PUSH_FROM)
        champion = open_release_log(self._store, alias).refresh().champion
        if champion is not None:
            return self._config(champion.run_id), None
        settings = self._aliases.get(alias)
        if settings is None or not settings.recipe:
            raise NotStarted(f"nothing was released under {alias!r} yet, and the settings name no recipe for it")
        return changed(load(settings.recipe, None, settings.overrides), {"deploy": {"alias": alias}}), None

    def _names(self) -> list[str]:
        released = (name.removeprefix("releases/") for name in list_logs(self._store, "releases"))
        return sorted({*self._aliases, *self._loop.aliases(), *released})

    def _signals(self, alias: str) -> SignalState:
        return open_signal_log(self._store, alias).refresh()


def _run_id(key: str) -> str:
    return f"run-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _source(name: str) -> Source:
    return next(source for source in get_args(Source) if source == name)


def _told_before(state: SignalState, found: Signal) -> SignalOutcome | None:
    run_id = state.runs_by_key.get(found.key)
    if run_id is not None:
        return SignalOutcome("merged", run_id)
    if any(found.key in pending.keys for pending in state.pending.values()):
        return SignalOutcome("collected", reason="it waits for its run already")
    return None
