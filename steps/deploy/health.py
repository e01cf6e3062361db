"""How a model's application is: what Serve says, how often its replicas died, and whether it answers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from steps.deploy.config import ServingConfig
from steps.deploy.converge import POLL_S
from steps.deploy.generation import Engine, Generation, Refusal
from steps.deploy.router import connect
from steps.deploy.starts import num_deaths
from steps.deploy.verdict import Health
from workflows.log import Store

SMOKE_PROMPTS = ("The", "import os\n", "Returns a new", "1, 2, 3,", "In this section")
SMOKE_TOKENS = 8
SMOKE_TIMEOUT_S = 120.0


def challenger_health(
    store: Store, application: str, num_replicas: int, *, unready_since: float | None, now: float
) -> Health:
    """Asks Serve and the counts of starts.

    Args:
        store: The storage.
        application: Name of the challenger's application.
        num_replicas: Replicas it should have.
        unready_since: Since when it was not ready at the last look, or None if it was.
        now: Unix seconds by the store's clock.
    """
    status, message = _status(application)
    ready = status == "RUNNING"
    return Health(
        ready=ready,
        failed=status == "DEPLOY_FAILED",
        unready_s=0.0 if ready else now - (now if unready_since is None else unready_since),
        num_deaths=num_deaths(store, application, num_replicas),
        message="" if ready else f"{status} {message}".strip(),
    )


def wait_ready(application: str, limit_s: float) -> str | None:
    """Waits until an application answers; gives what is wrong with it, or None."""
    began = time.monotonic()
    while True:
        status, message = _status(application)
        if status == "RUNNING":
            return None
        waited_s = time.monotonic() - began
        if status == "DEPLOY_FAILED" or waited_s > limit_s:
            return f"the challenger is {status} after {waited_s:.0f} s: {message[-500:] or 'no reason given'}"
        time.sleep(POLL_S)


def smoke_test(application: str, serving: ServingConfig, num_prompts: int) -> str | None:
    """Asks a model that no client reaches yet; gives what is wrong with its answers, or None."""
    engine = connect(application, serving)
    prompts = [SMOKE_PROMPTS[number % len(SMOKE_PROMPTS)] for number in range(num_prompts)]

    async def ask_all() -> list[str | None]:
        asked = [_ask(engine, f"smoke-{number}", prompt) for number, prompt in enumerate(prompts)]
        return await asyncio.wait_for(asyncio.gather(*asked), SMOKE_TIMEOUT_S)

    try:
        return next((problem for problem in asyncio.run(ask_all()) if problem is not None), None)
    except Exception as error:  # noqa: BLE001 - whatever a model raises here is the result of the test
        return f"smoke test: {type(error).__name__}: {error}"[:500]


async def _ask(engine: Engine, name: str, prompt: str) -> str | None:
    num_tokens, last = 0, None
    async for piece in engine.generate(Generation(request_id=name, prompt=prompt, max_tokens=SMOKE_TOKENS)):
        if isinstance(piece, Refusal):
            return f"smoke test: {prompt!r} was refused: {piece.message}"
        num_tokens, last = num_tokens + piece.num_tokens, piece
    if last is None or last.finish_reason is None or not num_tokens:
        return f"smoke test: {prompt!r} got no whole answer"
    return None


def _status(application: str) -> tuple[str, str]:
    from ray import serve

    found: Any = serve.status().applications.get(application)
    return ("NOT_STARTED", "") if found is None else (str(found.status.value), str(found.message))
