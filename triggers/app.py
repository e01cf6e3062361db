"""Puts the door together. `create_app` is given all it needs; nothing is read from the environment."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from triggers import problems
from triggers.auth import Access, LimitBody
from triggers.loop_api import LoopApi
from triggers.metrics import DoorMetrics, Measure
from triggers.page import routes as page_routes
from triggers.page.sessions import Sessions
from triggers.routes import approvals, health, hooks, outbox, runs
from triggers.settings import Settings
from workflows.access import AuditUnavailable

_log = logging.getLogger(__name__)


def create_app(settings: Settings, api: LoopApi, access: Access, session_key: bytes | None = None) -> FastAPI:
    """The door over a loop.

    Args:
        settings: Of the door.
        api: The loop.
        access: Who may do what, and where it is written down. The app does not close the audit log.
        session_key: Secret under which the page's cookies are valid; by default a new one, so that a restart signs
            everybody out.
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
    app.state.sessions = Sessions(session_key or secrets.token_bytes(32), access.directory)
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
    for module in (runs, approvals, hooks, outbox, health):
        app.include_router(module.router)
    app.include_router(page_routes.router)
    return app


async def _reload_policies(access: Access, every_s: float) -> None:
    while True:
        await anyio.sleep(every_s)
        try:
            await run_in_threadpool(access.authorizer.reload_if_changed)
        except AuditUnavailable as error:
            _log.error("changed policies are not in force: %s", error)
