"""The signal log `signals/<alias>`: what asks for a run, and the one place that decides whether it gets one.

Takes signals (drift, quality, volume, schedule, manual, alert, data, push); gives a run for each cause, at most one at
a time per alias. Causes that arrive twice merge as evidence; those that come too soon or too often are suppressed,
counted and shown with the reason, and those that stay true (new data, drift) wait as pending until they may run.

    idle -> confirmed -> collecting -> training -> evaluating -> shadow -> canary
         -> promoted | rejected | rolled_back | held | unchanged | failed | cancelled -> cooldown -> idle

Every function appends through the log's `decide`, so racing callers get one order, and repeating a call after a crash
changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steps.common.signal_state import (
    ABOUT_CHAMPION,
    DAY_S,
    ActiveRun,
    FinishedRun,
    Outcome,
    Pending,
    Signal,
    SignalFold,
    SignalState,
    Source,
    Stage,
    SuppressedSignal,
    signal,
)
from steps.common.signal_telling import SignalTeller
from workflows.log import Draft, Log, Record, Refused, Store

__all__ = [
    "ActiveRun",
    "Admitted",
    "Decision",
    "FinishedRun",
    "Merged",
    "Outcome",
    "Pending",
    "RunNotActive",
    "STAGES",
    "Signal",
    "SignalPolicy",
    "SignalState",
    "Source",
    "Stage",
    "Suppressed",
    "SuppressedSignal",
    "admit",
    "advanced",
    "due",
    "finished",
    "judge",
    "open_signal_log",
    "raise_signal",
    "resolved",
    "run_id_of",
    "signal",
    "signal_log_name",
    "started",
]

STAGES: tuple[Stage, ...] = ("confirmed", "collecting", "training", "evaluating", "shadow", "canary")
_OPEN_TO_CAUSES = frozenset({"confirmed", "collecting"})  # the run has not looked at its data yet: it covers them
_LASTING = frozenset({"drift", "quality", "volume", "alert", "data", "push"})  # still true when the cooldown has ended
_SETBACKS = frozenset({"rejected", "rolled_back", "failed"})


class RunNotActive(Refused):
    """A run reports progress that does not hold the alias."""

    def __init__(self, run_id: str, active: str | None) -> None:
        super().__init__(f"run {run_id!r} does not hold the alias (active: {active!r})")
        self.run_id, self.active = run_id, active

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_id, self.active)


class SignalPolicy(BaseModel):
    """When a signal gets a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cooldown_s: float = Field(default=6 * 3600.0, ge=0, description="Rest after a run before the next one.")
    max_cooldown_s: float = Field(default=72 * 3600.0, ge=0, description="Longest rest; each setback doubles it.")
    max_runs_per_day: int = Field(default=8, ge=1, description="Runs admitted in any 24 hours, overrides included.")
    min_new_rows: int = Field(default=1, ge=0, description="New rows that a signal must bring, where it counts them.")

    @model_validator(mode="after")
    def _check(self) -> SignalPolicy:
        if self.max_cooldown_s < self.cooldown_s:
            raise ValueError(f"max_cooldown_s={self.max_cooldown_s:g} must not be below cooldown_s={self.cooldown_s:g}")
        return self


@dataclass(frozen=True, slots=True)
class Admitted:
    """The signal gets a run of its own, by this id; the caller starts it."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Merged:
    """The cause has a run already; watch that one."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """No run now.

    Attributes:
        reason: `active_run`, `cooldown`, `daily_budget` or `too_few_rows`.
        message: For people.
        retry_at: When it would not be suppressed for this reason, Unix seconds; None if that depends on something else.
        pending: Whether the signal waits in the log and gets its run later by itself.
    """

    reason: str
    message: str
    retry_at: float | None
    pending: bool


Decision = Admitted | Merged | Suppressed


def signal_log_name(alias: str) -> str:
    return f"signals/{alias}"


def open_signal_log(store: Store, alias: str) -> Log[SignalState]:
    """Opens the signal log of an alias; `.refresh()` it to see what others wrote."""
    return Log(store, signal_log_name(alias), SignalFold(), tell=SignalTeller(alias))


def run_id_of(found: Signal) -> str:
    """The id of the run that a signal gets: two callers who race to start it start one run."""
    return f"run-{found.key[:16]}"


def judge(
    state: SignalState,
    found: Signal,
    policy: SignalPolicy,
    now: float,
    *,
    override_by: str | None = None,
    run_id: str | None = None,
    collects: bool = True,
) -> Decision:
    """Decides on a signal. Pure; `admit` records what it says."""
    if found.key in state.runs_by_key:
        return Merged(state.runs_by_key[found.key])
    if state.active:
        active = state.active
        same_trouble = found.source in ABOUT_CHAMPION and active.signal.incident == found.incident
        is_open = active.stage in _OPEN_TO_CAUSES and (active.collects or not collects)
        if is_open or same_trouble:
            return Merged(active.run_id)
        return Suppressed(
            "active_run", f"run {active.run_id} is at stage {active.stage}", None, found.source in _LASTING
        )
    reason = None if override_by is not None else _too_soon(state, found, policy, now)
    return Admitted(run_id or run_id_of(found)) if reason is None else reason


def _too_soon(state: SignalState, found: Signal, policy: SignalPolicy, now: float) -> Suppressed | None:
    lasting = found.source in _LASTING
    if now < state.cooldown_until:
        rest_s = state.cooldown_until - now
        return Suppressed("cooldown", f"{rest_s:.0f} s of rest are left", state.cooldown_until, lasting)
    today = [at for at in state.admitted_at if at > now - DAY_S]
    if len(today) >= policy.max_runs_per_day:
        message = f"{len(today)} runs in 24 hours, max_runs_per_day is {policy.max_runs_per_day}"
        return Suppressed("daily_budget", message, today[-policy.max_runs_per_day] + DAY_S, lasting)
    if found.num_new_rows is not None and found.num_new_rows < policy.min_new_rows:
        message = f"{found.num_new_rows} new rows, min_new_rows is {policy.min_new_rows}"
        return Suppressed("too_few_rows", message, None, pending=False)
    return None


def admit(
    log: Log[SignalState],
    found: Signal,
    policy: SignalPolicy,
    *,
    now: float,
    override_by: str | None = None,
    run_id: str | None = None,
    request: Any = None,
    collects: bool = True,
) -> Decision:
    """Decides on a signal and records the decision.

    Args:
        log: From `open_signal_log`.
        found: The signal.
        policy: When a signal gets a run.
        now: Unix seconds by the store's clock.
        override_by: Who pushes it past cooldown, budget and number of rows; recorded. One run at a time still holds.
        run_id: Id of the run if the caller chose one; by default derived from the cause.
        request: JSON values that the caller needs to start the run; given back as `ActiveRun.request`, or as
            `Pending.request` where the signal has to wait.
        collects: Whether the run would look at the data anew.

    Returns:
        `Admitted` to the one caller that recorded the admission, `Merged` to all who come later with the same cause.
    """
    decision: Decision

    def decide(state: SignalState) -> Draft:
        nonlocal decision
        decision = judge(state, found, policy, now, override_by=override_by, run_id=run_id, collects=collects)
        data: dict[str, Any] = {"signal": asdict(found), "at": now}
        match decision:
            case Admitted(admitted_id):
                asked = {"request": request, "collects": collects}
                return Draft("admitted", {**data, "run_id": admitted_id, "override_by": override_by, **asked})
            case Merged(merged_id):
                return Draft("merged", {**data, "run_id": merged_id})
            case Suppressed(reason, _, _, pending):
                asked = {"request": request, "collects": collects} if pending else {}
                return Draft("suppressed", {**data, "reason": reason, "pending": pending, **asked})

    log.append(decide)
    return decision


def due(state: SignalState, policy: SignalPolicy, now: float) -> tuple[Pending, ...]:
    """Gives what waits and would be admitted now, the oldest first, but what looks at the data anew before that: it
    answers for the others. Writes nothing, so it may be polled.
    """
    waiting = sorted(state.pending.values(), key=lambda pending: (not pending.collects, pending.raised_at))
    decided = ((each, judge(state, each.signal, policy, now, collects=each.collects)) for each in waiting)
    return tuple(each for each, decision in decided if isinstance(decision, Admitted))


def raise_signal(log: Log[SignalState], found: Signal, *, now: float) -> Record | None:
    """Records a lasting cause that waits for its run; the reconciler starts it when `due` names it. Once per key."""

    def decide(state: SignalState) -> Draft | None:
        known = found.key in state.runs_by_key or any(found.key in waiting.keys for waiting in state.pending.values())
        return None if known else Draft("raised", {"signal": asdict(found), "at": now})

    return log.append(decide)


def started(log: Log[SignalState], run_id: str) -> None:
    """Records that the run's journal exists. A failed or cancelled run that is resumed takes the alias again.

    Raises:
        RunNotActive: Another run holds the alias, or the run was never admitted.
    """

    def decide(state: SignalState) -> Draft | None:
        if state.active and state.active.run_id == run_id:
            return None if state.active.started else Draft("started", {"run_id": run_id})
        past = state.run_of(run_id)
        if state.active or not isinstance(past, FinishedRun) or past.outcome not in ("failed", "cancelled"):
            raise RunNotActive(run_id, state.active.run_id if state.active else None)
        return Draft("started", {"run_id": run_id})

    log.append(decide)


def advanced(log: Log[SignalState], run_id: str, stage: Stage) -> None:
    """Records that the run has reached a stage; going back or staying is nothing to record.

    Raises:
        RunNotActive: The run does not hold the alias.
    """

    def decide(state: SignalState) -> Draft | None:
        if state.active is None or state.active.run_id != run_id:
            raise RunNotActive(run_id, state.active.run_id if state.active else None)
        later = STAGES.index(stage) > STAGES.index(state.active.stage)
        return Draft("advanced", {"run_id": run_id, "stage": stage}) if later else None

    log.append(decide)


def finished(
    log: Log[SignalState], run_id: str, outcome: Outcome, policy: SignalPolicy, *, now: float, champion: str | None
) -> None:
    """Records the end of the run and starts the rest: doubled by each setback, reset by a promote, none after a cancel.

    Args:
        log: From `open_signal_log`.
        run_id: The run that ended.
        outcome: How.
        policy: Lengths of the rest.
        now: Unix seconds by the store's clock.
        champion: Version that answers now.

    Raises:
        RunNotActive: The run neither holds the alias nor held it.
    """

    def decide(state: SignalState) -> Draft | None:
        if state.active is None or state.active.run_id != run_id:
            if isinstance(state.run_of(run_id), FinishedRun):
                return None
            raise RunNotActive(run_id, state.active.run_id if state.active else None)
        num_setbacks = 0 if outcome == "promoted" else state.num_setbacks + (outcome in _SETBACKS)
        doublings = min(num_setbacks, 32)  # 6 h doubled 32 times is past any limit; a float never overflows
        rest_s = 0.0 if outcome == "cancelled" else min(policy.cooldown_s * 2**doublings, policy.max_cooldown_s)
        data = {"run_id": run_id, "outcome": outcome, "at": now, "champion": champion}
        return Draft("finished", {**data, "num_setbacks": num_setbacks, "cooldown_until": now + rest_s})

    log.append(decide)


def resolved(log: Log[SignalState], key: str, *, now: float) -> str | None:
    """Withdraws a cause, for example an alert that has ended.

    Returns:
        The run to cancel: the one that this cause alone has started and that has not begun to train. Else None.
    """
    run_id: str | None = None

    def decide(state: SignalState) -> Draft | None:
        nonlocal run_id
        active, run_id = state.active, None
        if active and active.keys == (key,) and active.stage in _OPEN_TO_CAUSES:
            run_id = active.run_id
            return None
        waits = any(waiting.signal.key == key for waiting in state.pending.values())
        return Draft("resolved", {"key": key, "at": now}) if waits else None

    log.append(decide)
    return run_id
