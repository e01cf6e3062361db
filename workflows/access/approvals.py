"""Approval tokens: what stands in the link that a person is sent.

A token is 256 random bits. Only its SHA-256 is stored, as the name of a small log `approvals/<sha256>`: requested,
decided, delivered. So a token is used once however many click at a time, and what was decided reaches the run even if
the process dies in between (`deliver_pending`). The token says which gate is meant; who may decide is asked of the
authorizer, about the person, each time.

A link is made where a message is sent, not before: a record never holds the token itself. A message that is sent again
carries another token; the first decision wins, because the gate of the run takes one.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from workflows.access.authorizer import Authorizer
from workflows.access.errors import ApprovalVoid, TokenExpired, TokenSpent, UnknownToken
from workflows.access.principals import Principal
from workflows.access.resources import Resource, approval
from workflows.log import Draft, Log, Record, Refused, Store

_log = logging.getLogger(__name__)

APPROVAL_PREFIX = "approvals/"
DEFAULT_EXPIRES_S = 3 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """What is asked.

    Attributes:
        run: The run that waits.
        gate: Name of the approval in the run.
        digest: Digest of the artifact that the question is about.
        team: Whose release it is.
        protected: Whether the alias needs four eyes.
        authors: Subjects whose hand the artifact bears.
        requested_at: Unix seconds by the store's clock.
        expires_at: From then on the token is worth nothing.
    """

    run: str
    gate: str
    digest: str
    team: str
    protected: bool
    authors: tuple[str, ...]
    requested_at: float
    expires_at: float

    @property
    def resource(self) -> Resource:
        """The request as the authorizer takes it."""
        return approval(
            self.run, self.gate, digest=self.digest, team=self.team, protected=self.protected, authors=self.authors
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecision:
    """What was decided, by whom. `digest` is what they looked at."""

    run: str
    gate: str
    digest: str
    granted: bool
    by: str
    reason: str
    decided_at: float


@dataclass(frozen=True, slots=True)
class ApprovalState:
    """The life of one token.

    Attributes:
        request: What was asked; None if the token was never issued.
        decision: What was decided, if it was.
        is_void: The artifact changed.
        is_delivered: The run has the decision, or does not want it any more.
    """

    request: ApprovalRequest | None = None
    decision: ApprovalDecision | None = None
    is_void: bool = False
    is_delivered: bool = False


class ApprovalFold:
    """Folds `requested`, `decided`, `voided`, `delivered`."""

    def initial(self) -> ApprovalState:
        """Never issued."""
        return ApprovalState()

    def apply(self, state: ApprovalState, record: Record) -> ApprovalState:
        """Takes a record in."""
        if record.kind == "requested":
            return replace(state, request=_request(record.data))
        if record.kind == "decided":
            return replace(state, decision=ApprovalDecision(**record.data))
        if record.kind == "voided":
            return replace(state, is_void=True)
        if record.kind == "delivered":
            return replace(state, is_delivered=True)
        return state

    def dump(self, state: ApprovalState) -> Any:
        """For snapshots."""
        return asdict(state)

    def load(self, data: Any) -> ApprovalState:
        """From a snapshot."""
        return ApprovalState(
            request=None if data["request"] is None else _request(data["request"]),
            decision=None if data["decision"] is None else ApprovalDecision(**data["decision"]),
            is_void=data["is_void"],
            is_delivered=data["is_delivered"],
        )


class Approvals:
    """Issues tokens and takes decisions.

    Args:
        store: Where the tokens' logs lie.
        authorizer: Decides who may decide, and writes it down.
        deliver: Hands a decision to the run. It may be called again with the same decision, and raises
            `workflows.log.Refused` if the run does not want it any more.
    """

    def __init__(self, store: Store, authorizer: Authorizer, deliver: Callable[[ApprovalDecision], None]) -> None:
        self._store = store
        self._authorizer = authorizer
        self._deliver = deliver
        self._settled: set[str] = set()

    def issue(
        self,
        run: str,
        gate: str,
        digest: str,
        *,
        team: str,
        protected: bool,
        authors: tuple[str, ...],
        expires_s: float = DEFAULT_EXPIRES_S,
    ) -> str:
        """Makes a token for a gate. It is returned here and stored nowhere."""
        token = secrets.token_urlsafe(32)
        now = self._store.now()
        request = ApprovalRequest(
            run=run,
            gate=gate,
            digest=digest,
            team=team,
            protected=protected,
            authors=authors,
            requested_at=now,
            expires_at=now + expires_s,
        )
        self._open(token).append(lambda _: Draft("requested", asdict(request)))
        return token

    def show(self, token: str) -> ApprovalState:
        """What the token is about. Looking decides nothing: mail scanners follow links.

        Raises:
            UnknownToken: It was never issued.
            TokenExpired: It came too late, and nothing was decided.
        """
        state = self._open(token).refresh()
        if state.request is None:
            raise UnknownToken
        if state.decision is None and self._store.now() >= state.request.expires_at:
            raise TokenExpired(state.request.run, state.request.gate)
        return state

    def decide(
        self, token: str, principal: Principal, granted: bool, *, digest: str, reason: str = ""
    ) -> ApprovalDecision:
        """Decides, once, and hands the decision to the run.

        Args:
            token: From the link.
            principal: Who decides, as authenticated; the token alone says nothing about that.
            granted: Approve or reject.
            digest: Digest of the artifact that stands at the gate now. If it is another than was asked about, the token
                is void.
            reason: For people.

        Raises:
            UnknownToken, TokenExpired, TokenSpent, ApprovalVoid: See there.
            Denied: The policies do not let this person decide.
            Refused: The run does not want the decision any more; it is recorded all the same.
        """
        log = self._open(token)
        request = log.refresh().request
        if request is None:
            raise UnknownToken
        self._authorizer.check(principal, "approve" if granted else "reject", request.resource)
        if digest != request.digest:
            log.append(lambda state: None if state.is_void or state.decision else Draft("voided", {"digest": digest}))
        now = self._store.now()
        decision = ApprovalDecision(
            run=request.run,
            gate=request.gate,
            digest=request.digest,
            granted=granted,
            by=principal.subject,
            reason=reason[:1000],
            decided_at=now,
        )

        def first(state: ApprovalState) -> Draft:
            if state.decision is not None:
                raise TokenSpent(request.run, request.gate, state.decision.by)
            if state.is_void:
                raise ApprovalVoid(request.run, request.gate)
            if now >= request.expires_at:
                raise TokenExpired(request.run, request.gate)
            return Draft("decided", asdict(decision))

        log.append(first)
        self._hand_over(log, decision)
        return decision

    def deliver_pending(self) -> int:
        """Hands over the decisions that are recorded and were not delivered: a process died, or the storage did not
        answer. What fails again keeps no other from its run, and is tried at the next call. Returns how many arrived.
        """
        num_delivered = 0
        for log in self._logs():
            if log.name not in self._settled:
                try:
                    num_delivered += self._deliver_again(log)
                except Exception as error:  # noqa: BLE001 - whatever a run says, the others must hear their decisions
                    _log.warning("the decision of %s is not delivered yet: %s", log.name, error)
        return num_delivered

    def open_requests(self) -> list[ApprovalRequest]:
        """What waits for a decision, oldest first. A gate that was asked about twice stands here twice."""
        now = self._store.now()
        states = (log.refresh() for log in self._logs())
        waiting = [
            state.request
            for state in states
            if state.request and state.decision is None and not state.is_void and now < state.request.expires_at
        ]
        return sorted(waiting, key=lambda request: request.requested_at)

    def _deliver_again(self, log: Log[ApprovalState]) -> bool:
        state = log.refresh()
        if state.decision is None:
            # One that can never be decided any more is not read again: each message that was sent left one.
            if state.is_void or (state.request and self._store.now() >= state.request.expires_at):
                self._settled.add(log.name)
            return False
        if not state.is_delivered:
            try:
                self._hand_over(log, state.decision)
            except Refused as refusal:
                told = (state.decision.gate, state.decision.run, refusal)
                _log.warning("decision on gate %r of run %r not wanted: %s", *told)
        self._settled.add(log.name)
        return not state.is_delivered

    def _hand_over(self, log: Log[ApprovalState], decision: ApprovalDecision) -> None:
        def receipt(refusal: str) -> None:
            log.append(lambda state: None if state.is_delivered else Draft("delivered", {"refusal": refusal}))

        try:
            self._deliver(decision)
        except Refused as refusal:
            receipt(str(refusal))
            raise
        # Any other error leaves the decision undelivered, for `deliver_pending`.
        receipt("")

    def _open(self, token: str) -> Log[ApprovalState]:
        name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        return Log(self._store, APPROVAL_PREFIX + name, ApprovalFold())

    def _logs(self) -> Iterator[Log[ApprovalState]]:
        for name in self._store.folders(APPROVAL_PREFIX.rstrip("/")):
            yield Log(self._store, APPROVAL_PREFIX + name, ApprovalFold())


def _request(data: Any) -> ApprovalRequest:
    return ApprovalRequest(**{**data, "authors": tuple(data["authors"])})
