"""What others may write into a run: cancel it, decide an approval, deliver an event, bury it.

They use the same log and the same decisions as the runner; there is no other channel to a run.
"""

from __future__ import annotations

from typing import Literal

from workflows.engine.claims import describe, holder
from workflows.engine.errors import NotWaiting, RunBusy, RunOver, SubjectMismatch
from workflows.engine.state import RunState
from workflows.engine.waits import Wait
from workflows.log import JSON, Draft, Store

Delivery = Literal["accepted", "duplicate", "late"]


def cancel(
    store: Store, run_id: str, state: RunState, *, by: str, reason: str, at: float, ttl_s: float
) -> Draft | None:
    """Asks the runner to cancel; ends the run at once if nobody drives it. None: it is cancelled or being cancelled.

    Raises:
        RunOver: It has ended otherwise.
    """
    if state.status == "cancelled":
        return None
    if state.over:
        raise RunOver(run_id, state.status)
    data = {"by": by, "reason": reason, "at": at}
    if holder(store, run_id, state, ttl_s) is None:
        return Draft("cancelled", {**data, "not_ended": []}, epoch=state.epoch)
    return None if state.cancel is not None else Draft("cancel_asked", data, epoch=state.epoch)


def decide(
    run_id: str, state: RunState, name: str, *, approved: bool, by: str, reason: str, subject: str | None, at: float
) -> Draft | None:
    """Records a person's decision, the first one only. None: the same decision by the same person stands already.

    Raises:
        NotWaiting: No such approval is open: too early, too late, or decided otherwise.
        SubjectMismatch: It is about something else than what waits.
        RunOver: The run has ended.
    """
    if state.over:
        raise RunOver(run_id, state.status)
    wait = _approval(run_id, state, name)
    if subject is not None and subject != wait.subject:
        raise SubjectMismatch(name, wait.subject, subject)
    before = state.decisions.get(wait.step)
    if before is not None:
        if before["approved"] == approved and before["by"] == by:
            return None
        raise NotWaiting(run_id, name, f"{before['by']} has {'approved' if before['approved'] else 'rejected'} it")
    if wait.due_at is not None and at >= wait.due_at:
        raise NotWaiting(run_id, name, "it has expired")
    data = {"step": wait.step, "approved": approved, "by": by, "reason": reason[:2000], "at": at}
    return Draft("decided", data, epoch=state.epoch)


def _approval(run_id: str, state: RunState, name: str) -> Wait:
    """The open approval of that name, or the one whose step has that id; the newest if a loop asks again and again."""
    found = [step.wait for step in state.steps.values() if step.wait is not None and step.wait.kind == "approval"]
    matching = [wait for wait in found if name in {wait.name, wait.step}]
    still_open = [wait for wait in matching if wait.step in state.waiting]
    if still_open:
        return still_open[-1]
    if matching and state.decisions.get(matching[-1].step) is not None:
        return matching[-1]
    raise NotWaiting(run_id, name, "it has expired" if matching else "no such approval is open yet")


def deliver(state: RunState, event: str, payload: JSON, *, by: str, at: float) -> tuple[Delivery, Draft | None]:
    """Records an event, the first of its name only. It may come before anybody waits for it; too late it changes
    nothing.
    """
    if event in state.events:
        return "duplicate", None
    if state.over or _given_up(state, event, at):
        return "late", None
    return "accepted", Draft("delivered", {"event": event, "payload": payload, "by": by, "at": at}, epoch=state.epoch)


def _given_up(state: RunState, event: str, at: float) -> bool:
    waits = [step.wait for step in state.steps.values() if step.wait is not None and step.wait.name == event]
    waits = [wait for wait in waits if wait.kind == "event"]
    return bool(waits) and all(wait.due_at is not None and at > wait.due_at for wait in waits)


def bury(store: Store, run_id: str, state: RunState, *, by: str, at: float, ttl_s: float) -> Draft | None:
    """The tombstone of a run. None: it stands.

    Raises:
        RunBusy: A living runner drives it; cancel it first.
    """
    if state.status == "deleted":
        return None
    silent = holder(store, run_id, state, ttl_s)
    if silent is not None and state.claim is not None:
        raise RunBusy(run_id, describe(state.claim.runner), silent)
    return Draft("deleted", {"by": by, "at": at}, epoch=state.epoch)


def condemn(run_id: str, state: RunState, *, reason: str, at: float) -> Draft | None:
    """Gives a run up after too many resumes in vain. A person may still drive it. None: it is dead already."""
    if state.over:
        raise RunOver(run_id, state.status)
    return None if state.status == "dead" else Draft("dead", {"reason": reason, "at": at}, epoch=state.epoch)


def release(state: RunState, *, at: float) -> Draft | None:
    """Lets go of a copied run that nobody has claimed under its own name. None: it was not being driven."""
    return Draft("parked", {"wake_at": at, "at": at}, epoch=state.epoch) if state.status == "running" else None
