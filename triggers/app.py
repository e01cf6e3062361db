"""Puts the door together. `create_app` is given all it needs; nothing is read from the environment."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from triggers import problems
from triggers.auth import Access, LimitBody
from triggers.loop_api import LoopApi
from triggers.metrics import DoorMetrics, Measure
from triggers.routes import approvals, health, hooks, runs
from triggers.settings import Settings
from workflows.access import AuditUnavailable

_log = logging.getLogger(__name__)


def create_app(settings: Settings, api: LoopApi, access: Access) -> FastAPI:
    """The door over a loop.

    Args:
        settings: Of the door.
        api: The loop.
        access: Who may do what, and where it is written down. The app does not close the audit log.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_reload_policies, access, settings.reload_policies_s)
            yield
            tasks.cancel_scope.cancel()

    app = bare_app(lifespan)
    app.state.settings = settings
    app.state.api = api
    app.state.access = access
    app.state.metrics = DoorMetrics(access.authorizer)
    # The last one added is the outermost: refused bodies are counted too.
    app.add_middleware(LimitBody, max_bytes=settings.max_body_bytes)
    app.add_middleware(Measure, metrics=app.state.metrics)
    return app


def bare_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None) -> FastAPI:
    """Routes and their description, with nothing behind them."""
    app = FastAPI(
        title="Everloop",
        summary="Starts runs of the loop, shows them, takes decisions and signals.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    for module in (runs, approvals, hooks, health):
        app.include_router(module.router)
    return app


async def _reload_policies(access: Access, every_s: float) -> None:
    while True:
        await anyio.sleep(every_s)
        try:
            await run_in_threadpool(access.authorizer.reload_if_changed)
        except AuditUnavailable as error:
            _log.error("changed policies are not in force: %s", error)
