"""The log `monitors/<alias>`: the reference in force, how far the outcomes were read, what the detectors have seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from steps.monitor.telling import MonitorTeller
from workflows.log import BlobRef, Log, Record, Store

_NUM_SHOWN = 50  # alarms kept in the state; older ones are in the log


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A reference in force.

    Attributes:
        token: Of the step that made it: a step that is repeated does not put it in force twice.
        champion: Version watched.
        reference: Blob that `Reference.from_bytes` reads.
        run_id: The run that made it.
        run_length: Promised mean number of sessions between false alarms.
        measured_run_length: What a replay measured.
        at: Unix seconds by the store's clock.
        num_traffic: Sessions of real traffic in the reference.
        num_documents: Passages of documents in it.
        warnings: What limits the promise.
    """

    token: str
    champion: str
    reference: BlobRef
    run_id: str
    run_length: float
    measured_run_length: float
    at: float
    num_traffic: int
    num_documents: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """A confirmed alarm.

    Attributes:
        detector: Who raised it.
        statistic: Its statistic in the confirming window.
        threshold: What that had to exceed.
        number: Counted over the life of the reference; names the window of the signal.
        num_prompts: Prompts seen since the reference came into force.
        at: Unix seconds by the store's clock.
        detail: What it is about.
        examples: Prompts of the window that are least like the reference, cut short.
    """

    detector: str
    statistic: float
    threshold: float
    number: int
    num_prompts: int
    at: float
    detail: Mapping[str, float] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorState:
    """Where watching stands.

    Attributes:
        watched: The reference in force, or None before the first.
        cursors: Next record of each outcome log.
        sessions: Marks of the sessions seen last; their later prompts are not looked at.
        detectors: State of each detector; empty right after a new reference.
        readings: Last statistic and threshold of each detector.
        num_prompts: Prompts looked at since the reference came into force.
        num_skipped: Prompts passed over because too many came at once.
        num_raised: Alarms that began, by detector, confirmed or not.
        num_confirmed: Alarms confirmed since the reference came into force.
        alarms: Latest confirmed alarms, oldest first.
        undelivered: Those that have no receipt from the signal log yet.
    """

    watched: Watched | None = None
    cursors: Mapping[str, int] = field(default_factory=dict)
    sessions: tuple[str, ...] = ()
    detectors: Mapping[str, Any] = field(default_factory=dict)
    readings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    num_prompts: int = 0
    num_skipped: int = 0
    num_raised: Mapping[str, int] = field(default_factory=dict)
    num_confirmed: int = 0
    alarms: tuple[Alarm, ...] = ()
    undelivered: tuple[Alarm, ...] = ()


def monitor_log_name(alias: str) -> str:
    return f"monitors/{alias}"


def open_monitor_log(store: Store, alias: str) -> Log[MonitorState]:
    """Opens the monitor log of an alias; `.refresh()` it to see what others wrote."""
    return Log(store, monitor_log_name(alias), MonitorFold(), tell=MonitorTeller(alias))


class MonitorFold:
    """Folds the records of a monitor log into `MonitorState`."""

    def initial(self) -> MonitorState:
        return MonitorState()

    def apply(self, state: MonitorState, record: Record) -> MonitorState:
        data = record.data
        if record.kind == "watched":
            # Alarms about the champion before are moot.
            return MonitorState(
                watched=_watched(data["watched"]), cursors=data["cursors"], sessions=tuple(data["sessions"])
            )
        if record.kind == "scanned":
            alarms = tuple(_alarm(alarm) for alarm in data["alarms"])
            counts = {name: state.num_raised.get(name, 0) + more for name, more in data["num_raised"].items()}
            return replace(
                state,
                cursors=data["cursors"],
                sessions=tuple(data["sessions"]),
                detectors=data["detectors"],
                readings={**state.readings, **data["readings"]},
                num_prompts=state.num_prompts + data["num_prompts"],
                num_skipped=state.num_skipped + data["num_skipped"],
                num_raised={**state.num_raised, **counts},
                num_confirmed=state.num_confirmed + len(alarms),
                alarms=(*state.alarms, *alarms)[-_NUM_SHOWN:],
                undelivered=(*state.undelivered, *alarms),
            )
        if record.kind == "delivered":
            numbers = set(data["numbers"])
            left = tuple(alarm for alarm in state.undelivered if alarm.number not in numbers)
            return replace(state, undelivered=left)
        return state

    def dump(self, state: MonitorState) -> Any:
        return asdict(state)

    def load(self, data: Any) -> MonitorState:
        nested = {
            "watched": None if data["watched"] is None else _watched(data["watched"]),
            "sessions": tuple(data["sessions"]),
            "alarms": tuple(_alarm(alarm) for alarm in data["alarms"]),
            "undelivered": tuple(_alarm(alarm) for alarm in data["undelivered"]),
        }
        return MonitorState(**{**data, **nested})


def _watched(data: Mapping[str, Any]) -> Watched:
    return Watched(**{**data, "reference": BlobRef(**data["reference"]), "warnings": tuple(data["warnings"])})


def _alarm(data: Mapping[str, Any]) -> Alarm:
    return Alarm(**{**data, "examples": tuple(data["examples"])})
