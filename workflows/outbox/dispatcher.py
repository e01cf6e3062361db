"""The dispatcher: finds what is to be told, and brings it to its receivers, at least once and in general once.

    dispatcher = Dispatcher(store, settings.notify)
    dispatcher.round()      # returns at once: each receiver is served by a thread of its own

A receiver that is slow or dead holds up nobody else. Two dispatchers do not send the same thing twice, for what one
has in hand it claims in the log; one that dies between a POST and its receipt leaves a claim that runs out, and the
event is sent again with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp

from workflows.access import Redactor
from workflows.log import Draft, LogError, Store, failpoint
from workflows.outbox.collecting import Collector, Found, read_found
from workflows.outbox.errors import NoSuchDelivery
from workflows.outbox.posting import Answer, body_of, post
from workflows.outbox.settings import Receiver
from workflows.outbox.state import SCHEDULE_S, OutboxState, open_outbox

CLAIM_S = 120.0
"""How long a dispatcher may have deliveries in hand; after its death others wait so long."""

MAX_BATCH = 50
"""Deliveries to one receiver that are claimed at a time."""

ORPHANED_S = sum(SCHEDULE_S)
"""A delivery to a receiver that no dispatcher knows is dead after the time that a dead receiver would get."""

_logger = logging.getLogger(__name__)

Links = Callable[[Found], Mapping[str, str] | None]
"""Gives the links of a message, or None if there is nothing to tell any more: the gate was decided meanwhile."""


@dataclass(frozen=True, slots=True)
class Dispatched:
    """What a round did.

    Attributes:
        found: Notifications that were new.
        claimed: Deliveries taken in hand.
    """

    found: int
    claimed: int


@dataclass(frozen=True, slots=True)
class _InHand:
    event_id: str
    log: str
    index: int
    position: int
    attempts: int


class Dispatcher:
    """Dispatches the notifications of one storage. Safe to use from threads; any number of processes may.

    Args:
        store: The storage.
        receivers: Who is told. Without any nothing is looked for, so that a reconciler without settings does not
            take from another one what it cannot deliver.
        links: Makes the links of a message, anew for each attempt.
        redactor: Takes known secrets out of what is sent and written down.
        now: The clock that decides what is due; by default the store's.
    """

    def __init__(
        self,
        store: Store,
        receivers: Sequence[Receiver],
        *,
        links: Links = lambda _: {},
        redactor: Redactor | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._receivers = {receiver.name: receiver for receiver in receivers}
        self._links = links
        secrets = [secret for receiver in receivers for secret in receiver.secrets]
        self._own_secrets = Redactor(secrets)
        self._redactor = redactor or Redactor(())
        self._now = now or store.now
        self._log = open_outbox(store)
        self._collector = Collector(store, self._log, tuple(receivers), self._now)
        self._round = threading.Lock()
        self._serving: dict[str, threading.Thread] = {}

    def round(self) -> Dispatched:
        """Finds what is new and takes in hand what is due; the deliveries go on in the background.

        Raises:
            LogError: The storage does not answer; nothing is lost.
        """
        if not self._receivers:
            return Dispatched(0, 0)
        with self._round:
            found = self._collector.collect()
            self._bury_orphans()
            claimed = self._claim()
            for name, batch in claimed.items():
                self._serve(self._receivers[name], batch)
        return Dispatched(found, sum(len(batch) for batch in claimed.values()))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the deliveries in hand; says whether all of them came to an end."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in list(self._serving.values()):
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._serving.values())

    def _claim(self) -> dict[str, list[_InHand]]:
        """Takes in hand what is due for receivers that are not being served."""
        now = self._now()
        free = {name for name in self._receivers if not self._is_busy(name)}
        until = now + CLAIM_S

        def decide(state: OutboxState) -> Draft | None:
            taken: dict[str, int] = {}
            pairs = []
            for event, delivery in state.due(now):
                name = delivery.receiver
                if name in free and taken.get(name, 0) < MAX_BATCH:
                    taken[name] = taken.get(name, 0) + 1
                    pairs.append([event.id, name])
            return Draft("claimed", {"deliveries": pairs, "until": until, "at": now}) if pairs else None

        if not any(delivery.receiver in free for _, delivery in self._log.state.due(now)):
            return {}
        record = self._log.append(decide)
        batches: dict[str, list[_InHand]] = {}
        state = self._log.state
        for event_id, name in record.data["deliveries"] if record else ():
            event = state.pending[event_id]
            held = _InHand(event_id, event.log, event.index, event.position, event.deliveries[name].attempts)
            batches.setdefault(name, []).append(held)
        return batches

    def _bury_orphans(self) -> None:
        """Ends deliveries to receivers that are in nobody's settings any more, as it seems."""
        now = self._now()
        for event, delivery in list(self._log.state.due(now)):
            if delivery.receiver not in self._receivers and now - event.collected_at > ORPHANED_S:
                unknown = Answer("failed", None, "no such receiver is set")
                self._receipt(event.id, delivery.receiver, "dead", unknown, None)

    def _is_busy(self, name: str) -> bool:
        thread = self._serving.get(name)
        return thread is not None and thread.is_alive()

    def _serve(self, receiver: Receiver, batch: Sequence[_InHand]) -> None:
        # A daemon: an exit does not wait for a receiver that is slow; the claim runs out, and it is sent again.
        until = time.monotonic() + CLAIM_S
        work = threading.Thread(
            target=lambda: asyncio.run(self._deliver_all(receiver, batch, until)),
            name=f"outbox-{receiver.name}",
            daemon=True,
        )
        self._serving[receiver.name] = work
        work.start()

    async def _deliver_all(self, receiver: Receiver, batch: Sequence[_InHand], until: float) -> None:
        async with aiohttp.ClientSession() as session:
            for held in batch:
                if time.monotonic() + receiver.timeout_s > until:
                    return  # The claim might run out while this one is on its way.
                try:
                    await self._deliver(session, receiver, held)
                except (LogError, OSError) as error:
                    # Without a receipt the claim runs out, and it is sent again.
                    _logger.warning("outbox: %s to %s: %s", held.event_id, receiver.name, error)

    async def _deliver(self, session: aiohttp.ClientSession, receiver: Receiver, held: _InHand) -> None:
        found = read_found(self._store, held.log, held.index, held.position)
        try:
            links = None if found is None else self._links(found)
        except LogError:
            raise
        except Exception as error:
            # Whatever is wrong with one message, the others behind it go out.
            _logger.exception("outbox: no links for %s", held.event_id)
            self._settle(receiver, held, Answer("failed", None, f"no links can be made: {type(error).__name__}"))
            return
        if found is None or links is None:
            why = "the record is gone" if found is None else "there is nothing to decide any more"
            self._receipt(held.event_id, receiver.name, "moot", Answer("failed", None, why), None)
            return
        failpoint("outbox.deliver.before-post")
        answer = await post(session, receiver, held.event_id, body_of(found, links, self._redactor))
        failpoint("outbox.deliver.after-post")
        self._settle(receiver, held, answer)

    def _settle(self, receiver: Receiver, held: _InHand, answer: Answer) -> None:
        """Writes the receipt of an attempt, and when the next one is due."""
        attempts = held.attempts + 1
        if answer.outcome == "delivered":
            self._receipt(held.event_id, receiver.name, "delivered", answer, None)
        elif answer.outcome == "gone" or attempts >= len(SCHEDULE_S):
            self._receipt(held.event_id, receiver.name, "dead", answer, None)
            _logger.error("outbox: %s to %s is dead: %s", held.event_id, receiver.name, answer.error)
        else:
            pause_s = max(SCHEDULE_S[attempts], answer.retry_after_s)
            self._receipt(held.event_id, receiver.name, "failed", answer, pause_s)

    def _receipt(self, event_id: str, receiver: str, outcome: str, answer: Answer, pause_s: float | None) -> None:
        now = self._now()
        data = {
            "id": event_id,
            "receiver": receiver,
            "outcome": outcome,
            "status": answer.status,
            "error": self._own_secrets.text(answer.error),
            "retry_at": None if pause_s is None else now + pause_s,
            "at": now,
        }

        def decide(state: OutboxState) -> Draft | None:
            event = state.pending.get(event_id)
            done = event is None or receiver not in event.deliveries or event.deliveries[receiver].status != "pending"
            # What was delivered twice is counted, for it should be rare; a failure beside a success is no news.
            return None if done and outcome != "delivered" else Draft("attempted", data)

        self._log.append(decide)


def retry(store: Store, event_id: str, *, by: str, receiver: str = "") -> tuple[str, ...]:
    """Has an event tried again from the start, for the receivers that it did not reach.

    Returns:
        Their names.

    Raises:
        NoSuchDelivery: There is no such event, or nobody misses it.
    """
    log = open_outbox(store)
    names: tuple[str, ...] = ()

    def decide(state: OutboxState) -> Draft | None:
        nonlocal names
        event = state.find(event_id)
        if event is None:
            raise NoSuchDelivery(event_id, "is not in the outbox: neither waiting, nor dead, nor delivered lately")
        missing = [name for name, each in event.deliveries.items() if each.status in ("dead", "pending", "moot")]
        names = tuple(name for name in missing if receiver in ("", name))
        if not names:
            raise NoSuchDelivery(event_id, f"was delivered to {receiver or 'everybody'}")
        return Draft("retried", {"id": event_id, "receivers": list(names), "by": by, "at": store.now()})

    log.append(decide)
    return names
