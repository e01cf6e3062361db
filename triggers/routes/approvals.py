"""`/v1/approvals/{token}`: look at a request, decide it. Looking decides nothing: mail scanners follow links."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request

from triggers.auth import Access, Caller
from triggers.bodies import ApprovalOut, DecisionBody
from triggers.loop_api import LoopApi
from triggers.problems import PROBLEMS

router = APIRouter(
    prefix="/v1/approvals", tags=["approvals"], responses={**PROBLEMS, 410: {**PROBLEMS[409], "description": "Gone"}}
)

Token = Annotated[str, Path(min_length=1, max_length=200, description="From the link.", examples=["Zk3v..."])]


@router.get("/{token}")
def show(request: Request, caller: Caller, token: Token) -> ApprovalOut:
    """What the token is about."""
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
    digest = api.waiting_digest(asked.run, asked.gate)
    access.approvals.decide(token, caller, body.decision == "approve", digest=digest, reason=body.reason)
    return ApprovalOut.of(access.approvals.show(token))
