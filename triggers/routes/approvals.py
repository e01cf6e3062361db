"""`/v1/approvals/{token}`: look at a request, decide it. Looking decides nothing: mail scanners follow links."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Request
from starlette.responses import RedirectResponse

from triggers.auth import Access, Caller, CallerOrReader
from triggers.bodies import ApprovalOut, DecisionBody
from triggers.loop_api import LoopApi
from triggers.problems import PROBLEMS
from workflows.access import ApprovalRequest, Principal, resources

router = APIRouter(
    prefix="/v1/approvals", tags=["approvals"], responses={**PROBLEMS, 410: {**PROBLEMS[409], "description": "Gone"}}
)

Token = Annotated[str, Path(min_length=1, max_length=200, description="From the link.", examples=["Zk3v..."])]


@router.get("/{token}", response_model=ApprovalOut)
def show(request: Request, caller: CallerOrReader, token: Token) -> Any:
    """What the token is about. A browser is led to the page that asks for a decision."""
    if caller is None:
        return RedirectResponse(f"/approvals/{quote(token, safe='')}", 303)
    access: Access = request.app.state.access
    state = access.approvals.show(token)
    assert state.request is not None, "show raises for a token that was not issued"
    access.authorizer.check(caller, "read_approval", state.request.resource)
    return ApprovalOut.of(state)


@router.post("/{token}")
def decide(request: Request, caller: Caller, token: Token, body: DecisionBody) -> ApprovalOut:
    """Decides, once. Void if the artifact at the gate is another one by now."""
    access: Access = request.app.state.access
    api: LoopApi = request.app.state.api
    asked = access.approvals.show(token).request
    assert asked is not None, "show raises for a token that was not issued"
    digest = open_gate(api, access, caller, asked, body.decision)
    access.approvals.decide(token, caller, body.decision == "approve", digest=digest, reason=body.reason)
    return ApprovalOut.of(access.approvals.show(token))


def open_gate(api: LoopApi, access: Access, decider: Principal, asked: ApprovalRequest, decision: str) -> str:
    """Digest of what stands at the gate now. The link says what was known when it was sent; who has a hand in the run,
    and whether four eyes are needed, is asked of the run itself.

    Raises:
        Denied: The policies do not let this person decide.
    """
    facts = api.facts(asked.run)
    now = resources.approval(
        asked.run,
        asked.gate,
        digest=asked.digest,
        team=facts.team,
        protected=facts.protected or asked.protected,
        authors={*facts.authors, *asked.authors},
    )
    access.authorizer.check(decider, decision, now)
    return api.waiting_digest(asked.run, asked.gate)
