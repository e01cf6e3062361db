"""The state of the signal log, and the fold that makes it. The decisions are in `steps.common.signals`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from workflows.log import Record

Source = Literal["drift", "quality", "volume", "schedule", "manual", "alert", "data", "push"]
Stage = Literal["confirmed", "collecting", "training", "evaluating", "shadow", "canary"]
Outcome = Literal["promoted", "rejected", "rolled_back", "held", "unchanged", "failed", "cancelled"]

DAY_S = 86_400.0
ABOUT_CHAMPION = frozenset({"drift", "quality", "alert"})  # moot once another champion answers
_NUM_SHOWN = 50  # finished runs and suppressed signals kept in the state; older ones are in the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A reason to run the loop; make it with `signal`.

    Attributes:
        source: Who speaks.
        reason: Class of the cause: signals of one class about one champion are one incident.
        window: The stretch of time or data it is about; with the class it makes the key.
        champion: Version that answered when it was raised, or None.
        key: SHA-256 over alias, champion, class and window: equal keys, equal cause.
        evidence: JSON values for people: statistics, thresholds, labels.
        num_new_rows: Rows that came since the last version, where the source counts them.
    """

    source: Source
    reason: str
    window: str
    champion: str | None
    key: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    num_new_rows: int | None = None

    @property
    def incident(self) -> str:
        return f"{self.champion or '-'}|{self.reason}"


def signal(
    alias: str,
    source: Source,
    *,
    window: str,
    champion: str | None,
    reason: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    num_new_rows: int | None = None,
) -> Signal:
    """Makes a signal with its key. The class of the cause is the source unless `reason` refines it."""
    reason = reason or source
    key = hashlib.sha256(json.dumps([alias, champion, reason, window]).encode()).hexdigest()
    return Signal(
        source=source,
        reason=reason,
        window=window,
        champion=champion,
        key=key,
        evidence=evidence or {},
        num_new_rows=num_new_rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRun:
    """The run that holds the alias.

    Attributes:
        run_id: Derived from the key of its cause.
        signal: Its cause.
        stage: How far it is.
        admitted_at: Unix seconds.
        keys: Keys of all causes that it covers.
        num_evidence: Signals that it answers, its cause included.
        override_by: Who pushed it past cooldown and budget, or None.
        request: What the caller needs to start it again after a crash between admission and start.
        started: Whether its journal exists.
        collects: Whether it looks at the data anew; a fork that begins later does not, and answers for no new data.
    """

    run_id: str
    signal: Signal
    stage: Stage
    admitted_at: float
    keys: tuple[str, ...]
    num_evidence: int = 1
    override_by: str | None = None
    request: Any = None
    started: bool = False
    collects: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A lasting cause that has no run yet; later signals of the same incident only add to it.

    Attributes:
        signal: The first of them.
        raised_at: When that came, Unix seconds.
        keys: Keys of all of them.
        num_evidence: How many there were.
        request: What the latest of them asks for, as `ActiveRun.request`; None: a whole run.
        collects: Whether that looks at the data anew.
    """

    signal: Signal
    raised_at: float
    keys: tuple[str, ...]
    num_evidence: int = 1
    request: Any = None
    collects: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """How an admitted run ended."""

    run_id: str
    signal: Signal
    outcome: Outcome
    admitted_at: float
    ended_at: float
    keys: tuple[str, ...]
    num_evidence: int
    override_by: str | None
    collects: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressedSignal:
    """A signal that got no run when it came."""

    source: Source
    key: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalState:
    """The machine of one alias.

    Attributes:
        active: The run that holds the alias, or None.
        pending: Causes that wait, by incident.
        finished: Latest runs, oldest first.
        runs_by_key: The run of each cause that ever got one: a cause gets no second run.
        cooldown_until: End of the rest, Unix seconds.
        num_setbacks: Rejects, roll-backs and failures since the last promote.
        admitted_at: When the runs of the last 24 hours were admitted.
        num_signals: Signals seen, by source.
        num_suppressed: Signals suppressed, by reason.
        num_decided: Signals by `<source>/<admitted|merged|suppressed>`.
        num_finished: Runs ended, by `<source>/<outcome>` of their cause.
        suppressed: The latest of them, oldest first.
    """

    active: ActiveRun | None = None
    pending: Mapping[str, Pending] = field(default_factory=dict)
    finished: tuple[FinishedRun, ...] = ()
    runs_by_key: Mapping[str, str] = field(default_factory=dict)
    cooldown_until: float = 0.0
    num_setbacks: int = 0
    admitted_at: tuple[float, ...] = ()
    num_signals: Mapping[str, int] = field(default_factory=dict)
    num_suppressed: Mapping[str, int] = field(default_factory=dict)
    num_decided: Mapping[str, int] = field(default_factory=dict)
    num_finished: Mapping[str, int] = field(default_factory=dict)
    suppressed: tuple[SuppressedSignal, ...] = ()

    def stage(self, now: float) -> str:
        """Gives the state of the machine at a time, for people and metrics."""
        if self.active:
            return self.active.stage
        return "cooldown" if now < self.cooldown_until else "idle"

    def run_of(self, run_id: str) -> ActiveRun | FinishedRun | None:
        """Gives a run by its id, if it is active or among the latest."""
        if self.active and self.active.run_id == run_id:
            return self.active
        return next((past for past in reversed(self.finished) if past.run_id == run_id), None)


class SignalFold:
    """Folds the records of a signal log into `SignalState`."""

    version = 3  # `Pending.request` and `collects` came with it

    def initial(self) -> SignalState:
        return SignalState()

    def apply(self, state: SignalState, record: Record) -> SignalState:
        fold = _FOLDS.get(record.kind)
        return state if fold is None else fold(state, record.data)

    def dump(self, state: SignalState) -> Any:
        return asdict(state)

    def load(self, data: Any) -> SignalState:
        active, pending = data["active"], data["pending"]
        nested = {
            "active": None if active is None else ActiveRun(**_nested(active)),
            "pending": {incident: Pending(**_nested(waiting)) for incident, waiting in pending.items()},
            "finished": tuple(FinishedRun(**_nested(past)) for past in data["finished"]),
            "admitted_at": tuple(data["admitted_at"]),
            "suppressed": tuple(SuppressedSignal(**past) for past in data["suppressed"]),
        }
        return SignalState(**{**data, **nested})


def _nested(data: Mapping[str, Any]) -> dict[str, Any]:
    return {**data, "signal": Signal(**data["signal"]), "keys": tuple(data["keys"])}


def _count(counts: Mapping[str, int], name: str) -> Mapping[str, int]:
    return {**counts, name: counts.get(name, 0) + 1}


def _seen(state: SignalState, found: Signal, decision: str = "") -> SignalState:
    state = replace(state, num_signals=_count(state.num_signals, found.source))
    if not decision:
        return state
    return replace(state, num_decided=_count(state.num_decided, f"{found.source}/{decision}"))


def _raised(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    found = Signal(**data["signal"])
    return _wait(_seen(state, found), found, data["at"])


def _wait(state: SignalState, found: Signal, at: float, request: Any = None, collects: bool = True) -> SignalState:
    waiting = state.pending.get(found.incident)
    if waiting is None:
        waiting = Pending(signal=found, raised_at=at, keys=(found.key,), request=request, collects=collects)
    else:
        keys = waiting.keys if found.key in waiting.keys else (*waiting.keys, found.key)
        # A whole run answers for what asks for less, and not the other way about.
        if collects or not waiting.collects:
            waiting = replace(waiting, request=request, collects=collects)
        waiting = replace(waiting, keys=keys, num_evidence=waiting.num_evidence + 1)
    return replace(state, pending={**state.pending, found.incident: waiting})


def _admitted(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    found, run_id, at = Signal(**data["signal"]), data["run_id"], data["at"]
    # The new run has not looked at its data yet, so it covers every cause that waits; unless it never looks.
    collects = data.get("collects", True)
    covered = {
        incident: pending
        for incident, pending in state.pending.items()
        if collects or not pending.collects or incident == found.incident
    }
    waiting = [key for pending in covered.values() for key in pending.keys]
    keys = tuple(dict.fromkeys([found.key, *waiting]))
    num_evidence = sum(pending.num_evidence for pending in covered.values())
    if found.incident not in covered:
        num_evidence += 1
    active = ActiveRun(
        run_id=run_id,
        signal=found,
        stage="confirmed",
        admitted_at=at,
        keys=keys,
        num_evidence=num_evidence,
        override_by=data["override_by"],
        request=data["request"],
        collects=collects,
    )
    return replace(
        _seen(state, found, "admitted"),
        active=active,
        pending={incident: pending for incident, pending in state.pending.items() if incident not in covered},
        runs_by_key={**state.runs_by_key, **dict.fromkeys(keys, run_id)},
        admitted_at=(*(past for past in state.admitted_at if past > at - DAY_S), at),
    )


def _merged(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    found, run_id = Signal(**data["signal"]), data["run_id"]
    state = replace(_seen(state, found, "merged"), runs_by_key={**state.runs_by_key, found.key: run_id})
    active = state.active
    if active is None or active.run_id != run_id:
        return state
    keys = active.keys if found.key in active.keys else (*active.keys, found.key)
    return replace(state, active=replace(active, keys=keys, num_evidence=active.num_evidence + 1))


def _suppressed(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    found, reason, at = Signal(**data["signal"]), data["reason"], data["at"]
    state = _seen(state, found, "suppressed")
    if data["pending"]:
        state = _wait(state, found, at, data.get("request"), data.get("collects", True))
    past = SuppressedSignal(source=found.source, key=found.key, reason=reason, at=at)
    return replace(
        state,
        num_suppressed=_count(state.num_suppressed, reason),
        suppressed=(*state.suppressed, past)[-_NUM_SHOWN:],
    )


def _started(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    if state.active:
        stage: Stage = "collecting" if state.active.stage == "confirmed" else state.active.stage
        return replace(state, active=replace(state.active, started=True, stage=stage))
    past = state.run_of(data["run_id"])
    if not isinstance(past, FinishedRun):
        return state
    active = ActiveRun(
        run_id=past.run_id,
        signal=past.signal,
        stage="collecting",
        admitted_at=past.admitted_at,
        keys=past.keys,
        num_evidence=past.num_evidence,
        override_by=past.override_by,
        started=True,
        collects=past.collects,
    )
    return replace(state, active=active, finished=tuple(run for run in state.finished if run is not past))


def _advanced(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    return replace(state, active=replace(state.active, stage=data["stage"])) if state.active else state


def _finished(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    active = state.active
    if active is None:
        return state
    past = FinishedRun(
        run_id=active.run_id,
        signal=active.signal,
        outcome=data["outcome"],
        admitted_at=active.admitted_at,
        ended_at=data["at"],
        keys=active.keys,
        num_evidence=active.num_evidence,
        override_by=active.override_by,
        collects=active.collects,
    )
    pending = state.pending
    if data["outcome"] == "promoted":
        pending = {name: waiting for name, waiting in pending.items() if not _moot(waiting.signal, data["champion"])}
    return replace(
        state,
        active=None,
        pending=pending,
        finished=(*state.finished, past)[-_NUM_SHOWN:],
        num_finished=_count(state.num_finished, f"{past.signal.source}/{past.outcome}"),
        cooldown_until=data["cooldown_until"],
        num_setbacks=data["num_setbacks"],
    )


def _moot(found: Signal, champion: str | None) -> bool:
    return found.source in ABOUT_CHAMPION and found.champion != champion


def _resolved(state: SignalState, data: Mapping[str, Any]) -> SignalState:
    pending = {name: waiting for name, waiting in state.pending.items() if waiting.signal.key != data["key"]}
    return replace(state, pending=pending)


_FOLDS = {
    "raised": _raised,
    "admitted": _admitted,
    "merged": _merged,
    "suppressed": _suppressed,
    "started": _started,
    "advanced": _advanced,
    "finished": _finished,
    "resolved": _resolved,
}
