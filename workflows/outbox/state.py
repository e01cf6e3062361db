"""The log `outbox`: how far every log was looked through, what is to be delivered to whom, and how that went.

| kind | data |
| --- | --- |
| `collected` | `cursors` (next record by log, -1: closed for good), `found`: notifications with their addressees |
| `claimed` | `deliveries` (pairs of event and receiver) that one dispatcher has in hand, `until` |
| `attempted` | `id`, `receiver`, `outcome`, `status`, `error`, `retry_at`: the receipt of one attempt |
| `retried` | `id`, `receivers`: tried again from the start, because a person asks |

What is told stands in the log that caused it; here are receipts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from workflows.log import Log, Record, Store

OUTBOX = "outbox"
CLOSED = -1
"""Cursor of a log that gets no notifications any more."""

SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
"""Pauses before the attempts, as Standard Webhooks advises; after the last one a delivery is dead."""

NUM_RECENT = 200
"""Delivered events kept in the state, for people; older ones are in the log."""

MAX_DEAD = 1000
"""Dead events kept in the state, the newest; each is in the log."""

Status = Literal["pending", "delivered", "dead", "moot"]
Outcome = Literal["delivered", "failed", "dead", "moot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event on its way to one receiver.

    Attributes:
        receiver: Its name.
        status: Where it stands; `moot`: there is nothing to tell any more.
        attempts: Attempts made since it was collected or retried.
        due_at: When the next attempt may be made, Unix seconds by the store's clock.
        claimed_until: Until then a dispatcher has it in hand.
        last_at: When it was last tried, or None.
        http_status: Answer to the last attempt, or None.
        error: What went wrong with it; empty if nothing did.
    """

    receiver: str
    status: Status = "pending"
    attempts: int = 0
    due_at: float = 0.0
    claimed_until: float = 0.0
    last_at: float | None = None
    http_status: int | None = None
    error: str = ""

    def is_due(self, now: float) -> bool:
        """Whether anybody may take it in hand."""
        return self.status == "pending" and self.due_at <= now and self.claimed_until <= now


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A notification that was found in a log.

    Attributes:
        id: Names it for good; the `webhook-id` of every delivery.
        log: The log that holds it.
        index: The record.
        position: Its place in the record.
        event: What happened, for example `run.failed`.
        severity: How urgent.
        title: One line.
        run_id: The run it is about, or empty.
        alias: The alias, or empty.
        collected_at: When it was found, Unix seconds by the store's clock.
        deliveries: By receiver.
    """

    id: str
    log: str
    index: int
    position: int
    event: str
    severity: str
    title: str
    run_id: str
    alias: str
    collected_at: float
    deliveries: Mapping[str, Delivery]

    @property
    def status(self) -> Status:
        """The worst of its deliveries: `pending`, else `dead`, else `delivered`, else `moot`."""
        found = {delivery.status for delivery in self.deliveries.values()}
        order: tuple[Status, ...] = ("pending", "dead", "delivered", "moot")
        return next((status for status in order if status in found), "moot")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxState:
    """The outbox as of a record. The cursors are changed in place: there is one for every run that ever was.

    Attributes:
        cursors: Next record of each log to look at; `CLOSED` for those that are over.
        since: Notifications of before are nobody's business: the outbox of an old storage begins here. None at first.
        pending: Events that somebody waits for, by id, oldest first.
        dead: Events that could not be delivered to somebody, by id.
        recent: The last events that were delivered, oldest first.
        num_outcomes: Ends of attempts by receiver and outcome.
    """

    cursors: dict[str, int] = field(default_factory=dict)
    since: float | None = None
    pending: Mapping[str, Event] = field(default_factory=dict)
    dead: Mapping[str, Event] = field(default_factory=dict)
    recent: tuple[Event, ...] = ()
    num_outcomes: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def find(self, event_id: str) -> Event | None:
        """An event by its id."""
        found = self.pending.get(event_id) or self.dead.get(event_id)
        return found or next((event for event in reversed(self.recent) if event.id == event_id), None)

    def due(self, now: float) -> Iterator[tuple[Event, Delivery]]:
        """What may be taken in hand, oldest first."""
        for event in self.pending.values():
            for delivery in event.deliveries.values():
                if delivery.is_due(now):
                    yield event, delivery


def open_outbox(store: Store) -> Log[OutboxState]:
    """Opens the outbox of a storage; `.refresh()` it to see what others wrote."""
    return Log(store, OUTBOX, OutboxFold())


class OutboxFold:
    """Folds the records of the outbox into `OutboxState`."""

    def initial(self) -> OutboxState:
        return OutboxState()

    def apply(self, state: OutboxState, record: Record) -> OutboxState:
        fold = _FOLDS.get(record.kind)
        return state if fold is None else fold(state, record.data)

    def dump(self, state: OutboxState) -> Any:
        return {
            "cursors": state.cursors,
            "since": state.since,
            "pending": [asdict(event) for event in state.pending.values()],
            "dead": [asdict(event) for event in state.dead.values()],
            "recent": [asdict(event) for event in state.recent],
            "num_outcomes": [[*key, count] for key, count in state.num_outcomes.items()],
        }

    def load(self, data: Any) -> OutboxState:
        return OutboxState(
            cursors=dict(data["cursors"]),
            since=data["since"],
            pending={event["id"]: _event(event) for event in data["pending"]},
            dead={event["id"]: _event(event) for event in data["dead"]},
            recent=tuple(_event(event) for event in data["recent"]),
            num_outcomes={(receiver, outcome): count for receiver, outcome, count in data["num_outcomes"]},
        )


def _event(data: Mapping[str, Any]) -> Event:
    return Event(**{**data, "deliveries": {name: Delivery(**each) for name, each in data["deliveries"].items()}})


def _collected(state: OutboxState, data: Mapping[str, Any]) -> OutboxState:
    state.cursors.update(data["cursors"])
    pending = dict(state.pending)
    for found in data["found"]:
        at = data["at"]
        deliveries = {name: Delivery(receiver=name, due_at=at) for name in found["to"]}
        named = {key: value for key, value in found.items() if key != "to"}
        pending[found["id"]] = Event(**named, collected_at=at, deliveries=deliveries)
    return replace(state, pending=pending, since=data["since"] if state.since is None else state.since)


def _claimed(state: OutboxState, data: Mapping[str, Any]) -> OutboxState:
    pending = dict(state.pending)
    for event_id, receiver in data["deliveries"]:
        event = pending.get(event_id)
        if event is not None:
            held = replace(event.deliveries[receiver], claimed_until=data["until"])
            pending[event_id] = replace(event, deliveries={**event.deliveries, receiver: held})
    return replace(state, pending=pending)


def _attempted(state: OutboxState, data: Mapping[str, Any]) -> OutboxState:
    receiver, outcome = data["receiver"], data["outcome"]
    counted = {
        **state.num_outcomes,
        (receiver, outcome): state.num_outcomes.get((receiver, outcome), 0) + 1,
    }
    state = replace(state, num_outcomes=counted)
    event = state.pending.get(data["id"])
    if event is None or receiver not in event.deliveries:
        return state
    before = event.deliveries[receiver]
    after = replace(
        before,
        status="pending" if outcome == "failed" else outcome,
        attempts=before.attempts + 1,
        due_at=before.due_at if data["retry_at"] is None else data["retry_at"],
        claimed_until=0.0,
        last_at=data["at"],
        http_status=data["status"],
        error=data["error"],
    )
    return _moved(state, replace(event, deliveries={**event.deliveries, receiver: after}))


def _moved(state: OutboxState, event: Event) -> OutboxState:
    """The state with an event in the place that its deliveries give it."""
    pending, status = dict(state.pending), event.status
    if status == "pending":
        pending[event.id] = event
        return replace(state, pending=pending)
    pending.pop(event.id, None)
    if status == "dead":
        dead = {**state.dead, event.id: event}
        while len(dead) > MAX_DEAD:
            del dead[next(iter(dead))]
        return replace(state, pending=pending, dead=dead)
    return replace(state, pending=pending, recent=(*state.recent, event)[-NUM_RECENT:])


def _retried(state: OutboxState, data: Mapping[str, Any]) -> OutboxState:
    event = state.find(data["id"])
    if event is None:
        return state
    again = {
        name: Delivery(receiver=name, due_at=data["at"]) if name in data["receivers"] else delivery
        for name, delivery in event.deliveries.items()
    }
    dead = {event_id: each for event_id, each in state.dead.items() if event_id != event.id}
    recent = tuple(each for each in state.recent if each.id != event.id)
    pending = {**state.pending, event.id: replace(event, deliveries=again)}
    return replace(state, pending=pending, dead=dead, recent=recent)


_FOLDS = {"collected": _collected, "claimed": _claimed, "attempted": _attempted, "retried": _retried}
