"""Who answers a request: sessions split by a hash, so that routers agree without talking and nobody is sent back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from steps.common.outcomes import Variant
from steps.common.releases import ReleasedModel, ReleaseState


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who answers, and under which rollout that was chosen."""

    variant: Variant
    model: ReleasedModel
    rollout: str | None = None
    step: int | None = None
    weight: float = 0.0


def choose(state: ReleaseState, session: str) -> Choice | None:
    """Gives who answers a session; None before the first release."""
    champion, rollout = state.champion, state.rollout
    if champion is None:
        return None
    if rollout is None:
        return Choice(variant="champion", model=champion)
    on_canary = rollout.stage == "canary" and on_challenger(rollout.id, session, rollout.weight)
    return Choice(
        variant="canary" if on_canary else "champion",
        model=rollout.challenger if on_canary else champion,
        rollout=rollout.id,
        step=rollout.step.index,
        weight=rollout.weight if rollout.stage == "canary" else 0.0,
    )


def on_challenger(rollout_id: str, session: str, weight: float) -> bool:
    """Tells whether a session is on the challenger's side; once it is, it stays there while the weight rises."""
    return place(rollout_id, session) < weight


def place(rollout_id: str, session: str) -> float:
    """Gives the place of a session in [0, 1): another one in each rollout, the same on all routers."""
    digest = hashlib.blake2b(
        session.encode("utf-8", "surrogatepass"), key=rollout_id.encode()[:64], digest_size=8
    ).digest()
    return int.from_bytes(digest, "big") / 2**64


def session_key(*, session_id: str | None, api_key: str | None, first_message: str, request_id: str) -> str:
    """Gives what makes requests a session: the client's own id, else its key and how the conversation began.

    Returns:
        A digest: outcomes are kept, session ids and keys are not.
    """
    if session_id:
        named = f"session\0{session_id}"
    elif api_key:
        named = f"key\0{api_key}\0{first_message}"
    else:
        named = f"request\0{request_id}"
    return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()[:32]
