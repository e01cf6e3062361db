"""What the door needs of the loop. `workflows.api` provides it; tests have a small one of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from steps.common.releases import ReleaseState
from steps.common.signals import SignalState
from workflows.access import ApprovalDecision
from workflows.engine import RunSummary, RunView
from workflows.outbox import OutboxState


class NotStarted(Exception):
    """A run that was asked for is not to be: suppressed, or another one holds the alias."""


class InvalidRequest(ValueError):
    """A recipe, an override or a step that does not exist or breaks a rule; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the policies look at.

    Attributes:
        recipe: The recipe the run began as.
        alias: The release it works for.
        team: Whose it is.
        protected: Whether the alias is promoted with four eyes.
        authors: Subjects whose hand it bears: who started it, who wrote its configuration or code.
    """

    recipe: str
    alias: str
    team: str
    protected: bool
    authors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request: a run of its own, or one that was under way already."""

    run_id: str
    outcome: Literal["started", "merged"]


@dataclass(frozen=True, slots=True)
class SignalOutcome:
    """What became of a signal.

    Attributes:
        outcome: `started` and `merged` name a run; `suppressed` and `collected` a reason.
        run_id: The run, or empty.
        reason: A sentence.
    """

    outcome: Literal["started", "merged", "suppressed", "collected"]
    run_id: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasView:
    """An alias as of now: what it serves, and what asks for runs.

    Attributes:
        alias: Its name.
        facts: What the policies look at.
        stage: Where its state machine stands.
        signals: The fold of its signal log.
        release: The fold of its release log.
        at: When that was, by the store's clock, Unix seconds.
    """

    alias: str
    facts: RunFacts
    stage: str
    signals: SignalState
    release: ReleaseState
    at: float


class LoopApi(Protocol):
    """The loop as seen through the door. Every method may raise `workflows.engine.RunNotFound` and
    `workflows.log.LogError`."""

    def check(self) -> None:
        """Returns if the storage answers."""

    def describe(self, recipe: str, overrides: Mapping[str, Any]) -> RunFacts:
        """The facts of a run that would be started so.

        Raises:
            InvalidRequest: An unknown recipe, or an override that breaks a rule.
        """

    def facts(self, run_id: str) -> RunFacts:
        """The facts of a run."""

    def start(self, recipe: str, overrides: Mapping[str, Any], *, by: str, reason: str, key: str) -> Started:
        """Starts a run because somebody asks. The same key, the same run.

        Raises:
            InvalidRequest: As `describe`.
            NotStarted: Another run holds the alias.
        """

    def list_runs(self) -> Sequence[RunSummary]:
        """All runs, the newest first."""

    def view(self, run_id: str) -> RunView:
        """A run as of now."""

    def resume(self, run_id: str, *, by: str) -> RunView:
        """Has a run go on where it stands; returns before it ends. Refused if a living runner holds it."""

    def cancel(self, run_id: str, *, by: str, reason: str) -> RunView:
        """Cancels a run. Refused if it has ended otherwise."""

    def fork(self, run_id: str, from_step: str, overrides: Mapping[str, Any], *, by: str, key: str) -> Started:
        """Starts a run that shares what another one finished before a step.

        Raises:
            InvalidRequest: No such step, or an override that breaks a rule.
            NotStarted: Another run holds the alias.
        """

    def waiting_digest(self, run_id: str, gate: str) -> str:
        """Digest of the artifact that stands at a gate now; empty if the gate is not open."""

    def evidence(self, run_id: str) -> tuple[str, ...]:
        """Sentences about what a run has found so far, for who decides about it."""

    def decide(self, decision: ApprovalDecision) -> None:
        """Hands a decision to its run, and has the run go on. Refused if the run does not want it any more."""

    def signal(
        self, alias: str, source: str, *, window: str, reason: str, evidence: Mapping[str, Any]
    ) -> SignalOutcome:
        """Reports a cause. Once per alias, source and window, however often it is told."""

    def alias_facts(self, alias: str) -> RunFacts | None:
        """The facts of an alias, or None if the loop has never heard of it."""

    def list_aliases(self) -> Sequence[AliasView]:
        """Every alias that has signals, a release or settings, by name."""

    def notify(self, body: Mapping[str, Any], *, key: str) -> bool:
        """Has people told something that the loop does not know by itself. Says whether the key was new.

        Raises:
            workflows.outbox.InvalidNotice: A field breaks a rule.
        """

    def outbox(self) -> OutboxState:
        """What was told, to whom, and what could not be."""
