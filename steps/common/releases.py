"""The release log `releases/<alias>`: the desired state of serving, and the only way to change it.

Takes decisions (`log.append(promote(...))`), gives `ReleaseState`: which model version answers for the alias, which
one is rolled out beside it and with which weight, the evidence so far, and which versions are condemned. Routers,
`converge` and monitors only follow it.

A decision is a function of the state that gives a record, or None when it was taken before, or raises a refusal.
After a lost race it is asked again with the new state, so a condemned version is not revived and only the model under
rollout is promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from steps.common.release_state import (
    MAX_HISTORY,
    Condemned,
    Evidence,
    FinishedRollout,
    Limits,
    Outcome,
    ReleasedModel,
    ReleaseFold,
    ReleaseState,
    Rollout,
    RolloutStep,
    Stage,
)
from steps.common.release_telling import ReleaseTeller
from workflows.log import Draft, Log, Refused, Store, list_logs

__all__ = [
    "Condemned",
    "Decide",
    "Evidence",
    "FinishedRollout",
    "Limits",
    "MAX_HISTORY",
    "NoSuchRollout",
    "Outcome",
    "ReleaseFold",
    "ReleaseRefused",
    "ReleaseState",
    "ReleasedModel",
    "Rollout",
    "RolloutFenced",
    "RolloutStep",
    "RolloutUnderWay",
    "Stage",
    "VersionCondemned",
    "abort",
    "claim",
    "hold",
    "open_release_log",
    "open_rollout",
    "promote",
    "record_evidence",
    "release_log_name",
    "released_aliases",
    "roll_back",
    "set_weight",
]

Decide = Callable[[ReleaseState], Draft | None]


# Errors:
#   workflows.log.Refused
#     ReleaseRefused
#       VersionCondemned   the version was rolled back for cause
#       RolloutUnderWay    another rollout holds the alias
#       NoSuchRollout      the rollout has ended, or never was
#       RolloutFenced      another runner has taken the rollout over
class ReleaseRefused(Refused):
    """A decision that the state of the release log does not allow."""


class VersionCondemned(ReleaseRefused):
    """A version that was rolled back for cause is not revived: train a new one."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(f"model version {version!r} is condemned and is not rolled out again: {reason}")
        self.version, self.reason = version, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.version, self.reason)


class RolloutUnderWay(ReleaseRefused):
    """One rollout at a time; this one's deadline tells when it may be abandoned."""

    def __init__(self, rollout_id: str, run_id: str, deadline_at: float) -> None:
        super().__init__(
            f"rollout {rollout_id!r} of run {run_id!r} is under way until {deadline_at:.0f} (Unix time) at the latest"
        )
        self.rollout_id, self.run_id, self.deadline_at = rollout_id, run_id, deadline_at

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rollout_id, self.run_id, self.deadline_at)


class NoSuchRollout(ReleaseRefused):
    """The rollout that a decision names is not the one under way."""

    def __init__(self, rollout_id: str, current: str | None) -> None:
        super().__init__(f"rollout {rollout_id!r} is not under way (under way: {current!r})")
        self.rollout_id, self.current = rollout_id, current

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rollout_id, self.current)


class RolloutFenced(ReleaseRefused):
    """A later claim holds the rollout; whoever sees this must stop."""

    def __init__(self, rollout_id: str, epoch: int, held: int) -> None:
        super().__init__(f"rollout {rollout_id!r} was taken over: epoch {epoch} is older than {held}")
        self.rollout_id, self.epoch, self.held = rollout_id, epoch, held

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.rollout_id, self.epoch, self.held)


def release_log_name(alias: str) -> str:
    return f"releases/{alias}"


def open_release_log(store: Store, alias: str) -> Log[ReleaseState]:
    """Opens the release log of an alias; `.refresh()` it to see what others wrote."""
    return Log(store, release_log_name(alias), ReleaseFold(), tell=ReleaseTeller(alias))


def released_aliases(store: Store) -> list[str]:
    """Gives the aliases for which a model should answer."""
    names = [name.removeprefix("releases/") for name in list_logs(store, "releases")]
    return [name for name in names if open_release_log(store, name).refresh().champion is not None]


# Decisions. Each gives a function for `Log.append`.


def open_rollout(
    *,
    rollout_id: str,
    challenger: ReleasedModel,
    run_id: str,
    epoch: int,
    at: float,
    deadline_at: float,
    limits: Limits,
    stage: Stage,
    weight: float,
    serving: Mapping[str, Any],
    approved_by: tuple[str, ...] = (),
) -> Decide:
    """Opens a rollout, once per id. What comes of it names who approved it.

    Raises:
        VersionCondemned: The version, or a model with the same bytes, was rolled back for cause.
        RolloutUnderWay: Another rollout holds the alias.
    """

    def decide(state: ReleaseState) -> Draft | None:
        if state.finished(rollout_id) or (state.rollout and state.rollout.id == rollout_id):
            return None
        for past in state.condemned.values():
            if past.version == challenger.version or past.digest == challenger.model.sha256:
                raise VersionCondemned(challenger.version, past.reason)
        if state.rollout:
            raise RolloutUnderWay(state.rollout.id, state.rollout.run_id, state.rollout.deadline_at)
        data = {
            "rollout": rollout_id,
            "challenger": asdict(challenger),
            "run_id": run_id,
            "at": at,
            "deadline_at": deadline_at,
            "limits": asdict(limits),
            "stage": stage,
            "weight": weight,
            "serving": dict(serving),
            "approved_by": list(approved_by),
        }
        return Draft("rollout-opened", data, epoch)

    return decide


def claim(rollout_id: str, *, epoch: int) -> Decide:
    """Takes a rollout over after its run changed hands; nothing to do for the holder itself."""

    def decide(state: ReleaseState) -> Draft | None:
        rollout = _held(state, rollout_id, epoch)
        return (
            Draft("rollout-claimed", {"rollout": rollout_id, "replaces": rollout.epoch}, epoch)
            if epoch > rollout.epoch
            else None
        )

    return decide


def set_weight(rollout_id: str, *, epoch: int, step: int, stage: Stage, weight: float, at: float) -> Decide:
    """Starts step `step` of a rollout with a weight; routers follow within a second."""

    def decide(state: ReleaseState) -> Draft | None:
        rollout = _held(state, rollout_id, epoch)
        if step <= rollout.step.index:
            return None
        return Draft(
            "weight-set", {"rollout": rollout_id, "step": step, "stage": stage, "weight": weight, "at": at}, epoch
        )

    return decide


def record_evidence(rollout_id: str, evidence: Evidence, *, epoch: int, replayed: int = 0) -> Decide:
    """Records a look, once per name of the look; `replayed` counts the held-out prompts sent so far."""

    def decide(state: ReleaseState) -> Draft | None:
        rollout = _held(state, rollout_id, epoch)
        if rollout.evidence and rollout.evidence.look == evidence.look:
            return None
        return Draft("looked", {"rollout": rollout_id, "evidence": asdict(evidence), "replayed": replayed}, epoch)

    return decide


def promote(rollout_id: str, version: str, *, epoch: int, at: float, reasons: tuple[str, ...]) -> Decide:
    """Makes the model under rollout the champion. Promoting what is not under rollout is refused."""

    def decide(state: ReleaseState) -> Draft | None:
        past = state.finished(rollout_id)
        if past and past.outcome == "promoted" and past.version == version:
            return None
        rollout = _held(state, rollout_id, epoch)
        if rollout.challenger.version != version:
            raise NoSuchRollout(
                f"{rollout_id} of version {version}", f"{rollout.id} of version {rollout.challenger.version}"
            )
        data = {"rollout": rollout_id, "version": version, "at": at, "reasons": list(reasons)}
        return Draft("promoted", {**data, "approved_by": list(rollout.approved_by)}, epoch)

    return decide


def roll_back(rollout_id: str, *, epoch: int, at: float, reasons: tuple[str, ...], condemn: bool) -> Decide:
    """Ends a rollout in favour of the champion; `condemn` says that the version is never to be tried again."""

    def decide(state: ReleaseState) -> Draft | None:
        past = state.finished(rollout_id)
        if past and past.outcome == "rolled_back":
            return None
        _held(state, rollout_id, epoch)
        return Draft(
            "rolled-back", {"rollout": rollout_id, "at": at, "reasons": list(reasons), "condemn": condemn}, epoch
        )

    return decide


def hold(rollout_id: str, *, epoch: int, at: float, reasons: tuple[str, ...]) -> Decide:
    """Ends a rollout without a verdict: the champion stays, the version may be tried again."""

    def decide(state: ReleaseState) -> Draft | None:
        past = state.finished(rollout_id)
        if past and past.outcome == "held":
            return None
        _held(state, rollout_id, epoch)
        return Draft("held", {"rollout": rollout_id, "at": at, "reasons": list(reasons)}, epoch)

    return decide


def abort(rollout_id: str, *, by: str, at: float, condemn: bool = False) -> Decide:
    """Rolls back from outside, by a person or past the deadline of a dead run; needs no claim, and ends the owner's."""

    def decide(state: ReleaseState) -> Draft | None:
        if state.finished(rollout_id):
            return None
        if state.rollout is None or state.rollout.id != rollout_id:
            raise NoSuchRollout(rollout_id, state.rollout.id if state.rollout else None)
        data = {"rollout": rollout_id, "at": at, "reasons": [f"aborted by {by}"], "condemn": condemn}
        return Draft("rolled-back", data, state.rollout.epoch)

    return decide


def _held(state: ReleaseState, rollout_id: str, epoch: int) -> Rollout:
    rollout = state.rollout
    if rollout is None or rollout.id != rollout_id:
        raise NoSuchRollout(rollout_id, rollout.id if rollout else None)
    if epoch < rollout.epoch:
        raise RolloutFenced(rollout_id, epoch, rollout.epoch)
    return rollout
