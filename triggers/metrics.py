"""What the door counts."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workflows.access import Authorizer


class DoorMetrics:
    """The metrics of one app, in a registry of their own."""

    def __init__(self, authorizer: Authorizer) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("everloop_door_requests_total", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "everloop_door_seconds",
            "Time from request to the first byte of its answer.",
            ("route",),
            registry=self.registry,
        )
        stale = Gauge(
            "everloop_policies_stale", "1 while wrong policy files keep an old set in force.", registry=self.registry
        )
        stale.set_function(lambda: float(authorizer.reload_error is not None))


class Measure:
    """Counts requests by declared route, so that ids and tokens are no labels."""

    def __init__(self, app: ASGIApp, metrics: DoorMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on and counts its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = str(getattr(scope.get("route"), "path", "unknown"))
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(method, route, str(message["status"])).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, counted)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
