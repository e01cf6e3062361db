"""Waits: nodes that hold no worker while they wait. The runner, not Ray, completes them.

A wait's clock starts when everything it takes is there. What ended it (the time, a delivery, a decision, its expiry)
is a record of the run, so it ends once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workflows.engine.graph import STEP_ID, Ref
from workflows.engine.step import step
from workflows.log import JSON

if TYPE_CHECKING:
    from ray.dag import FunctionNode


@dataclass(frozen=True, slots=True)
class Event:
    """How a wait for an event ended.

    Attributes:
        name: The event waited for.
        payload: What was delivered with it; None when it expired.
        by: Who delivered it.
        expired: Whether the time ran out first.
    """

    name: str
    payload: Any = None
    by: str = ""
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Approval:
    """How a wait for a person's decision ended.

    Attributes:
        name: The approval asked for.
        outcome: The decision, or that none came in time.
        by: Who decided.
        reason: Why, in the decider's words.
        subject: SHA-256 of the encoded subject: the decision holds for this and nothing else.
    """

    name: str
    outcome: Literal["approved", "rejected", "expired"]
    by: str = ""
    reason: str = ""
    subject: str = ""

    @property
    def approved(self) -> bool:
        return self.outcome == "approved"


def sleep(duration_s: float, *, after: Any = None) -> FunctionNode:
    """A node that gives `after` so many seconds after `after` is there.

    Args:
        duration_s: How long, at least 0.
        after: A node or a value, passed through.
    """
    if not duration_s >= 0:
        raise ValueError(f"duration_s is {duration_s}, must not be negative")
    return sleeping.named("").bind(duration_s=float(duration_s), after=after)


def event(name: str, *, timeout_s: float | None = None, after: Any = None) -> FunctionNode:
    """A node that gives an `Event` once somebody delivers it, which may be before the wait begins.

    Args:
        name: Its name within the run; also the node's id.
        timeout_s: Seconds after which the wait ends without it.
        after: A node that must be there before the wait begins.
    """
    return waiting_for_event.named(_checked(name)).bind(name=name, timeout_s=timeout_s, after=after)


def approval(name: str, *, subject: Any = None, expires_s: float | None = None, after: Any = None) -> FunctionNode:
    """A node that gives an `Approval` once somebody decides.

    Args:
        name: What is to be approved; also the node's id.
        subject: A node or value that the decision is about and bound to.
        expires_s: Seconds after which it ends undecided.
        after: A node that must be there before the wait begins.
    """
    return waiting_for_approval.named(_checked(name)).bind(name=name, subject=subject, expires_s=expires_s, after=after)


def _checked(name: str) -> str:
    if not STEP_ID.fullmatch(name):
        raise ValueError(f"name is {name!r}, must match {STEP_ID.pattern}")
    return name


@step
def sleeping(duration_s: float, after: Any) -> Any:  # noqa: ARG001 - the engine ends it after duration_s
    """Passes `after` on. Called plainly it does not wait."""
    return after


@step
def waiting_for_event(name: str, timeout_s: float | None, after: Any) -> Event:  # noqa: ARG001
    """Called plainly it is as if the time had run out."""
    return Event(name, expired=True)


@step
def waiting_for_approval(name: str, subject: Any, expires_s: float | None, after: Any) -> Approval:  # noqa: ARG001
    """Called plainly it is as if the time had run out."""
    return Approval(name, "expired")


KINDS: Mapping[str, Literal["sleep", "event", "approval"]] = {
    sleeping.address: "sleep",
    waiting_for_event.address: "event",
    waiting_for_approval.address: "approval",
}


@dataclass(frozen=True, slots=True)
class Wait:
    """An open wait.

    Attributes:
        step: The waiting step.
        kind: What ends it.
        name: Name of the event or approval; empty for a sleep.
        opened_at: When its clock started, Unix seconds.
        due_at: When it ends by itself, or None.
        subject: SHA-256 of what is to be approved; empty otherwise.
    """

    step: str
    kind: Literal["sleep", "event", "approval"]
    name: str
    opened_at: float
    due_at: float | None
    subject: str = ""


def open_wait(
    step: str, function: str, arguments: tuple[tuple[Any, ...], dict[str, Any]], results: Mapping[str, JSON], at: float
) -> Wait:
    """The wait of a node whose needs are all there.

    Args:
        step: Id of the node.
        function: Address of its function.
        arguments: Its decoded arguments, `Ref` for nodes.
        results: Encoded results of the nodes it takes.
        at: Now, Unix seconds.
    """
    kind, kwargs = KINDS[function], arguments[1]
    if kind == "sleep":
        return Wait(step, kind, "", at, at + kwargs["duration_s"])
    within = kwargs["timeout_s" if kind == "event" else "expires_s"]
    subject = kwargs.get("subject")
    encoded = results[subject.step] if isinstance(subject, Ref) else subject
    digest = hashlib.sha256(json.dumps(encoded, sort_keys=True, default=str).encode()).hexdigest()
    return Wait(
        step, kind, kwargs["name"], at, None if within is None else at + within, digest if kind == "approval" else ""
    )
