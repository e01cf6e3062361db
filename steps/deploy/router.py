"""The router as a Serve deployment: `Traffic` and its HTTP application in a replica that owns `/v1`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steps.common.outcomes import OutcomeWriter
from steps.common.releases import ReleasedModel
from steps.deploy.app import create_app
from steps.deploy.config import ServingConfig
from steps.deploy.generation import Engine
from steps.deploy.metrics import RouterMetrics
from steps.deploy.naming import application_name
from steps.deploy.traffic import Traffic
from workflows.log import open_store


class Router:
    """Routes the requests for all aliases of one storage; the class of the ingress deployment.

    Args:
        storage: URI of the storage.
    """

    def __init__(self, storage: str) -> None:
        store = open_store(storage)
        self._engines: dict[str, Engine] = {}
        self._storage = storage
        self._traffic = Traffic(
            store, self._engine, lambda alias: OutcomeWriter(store=store, alias=alias), RouterMetrics()
        )

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self._traffic)

    async def follow(self, alias: str) -> Mapping[str, int]:
        """Reads the release logs now, and gives the open answers by model version."""
        await self._traffic.refresh()
        known = self._traffic.aliases.get(alias)
        return dict(known.open_answers) if known is not None else {}

    def _engine(self, alias: str, model: ReleasedModel, serving: ServingConfig) -> Engine:
        name = application_name(self._storage, alias, model.version)
        if name not in self._engines:
            self._engines[name] = connect(name, serving)
        return self._engines[name]


def connect(application: str, serving: ServingConfig) -> Engine:
    """Gives the engine behind an application that runs."""
    from ray import serve

    handle = serve.get_app_handle(application)
    if serving.engine == "vllm":
        from steps.deploy.engine_vllm import VllmEngine

        return VllmEngine(handle, application)
    from steps.deploy.handle_engine import HandleEngine

    return HandleEngine(handle)
