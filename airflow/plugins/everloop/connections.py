"""Airflow's connections as endpoints. The only place that sees a token, and it has Airflow mask it."""

from __future__ import annotations

from airflow.sdk import BaseHook
from airflow.sdk.log import amask_secret

from everloop.endpoint import Endpoint, endpoint_of
from everloop.follow import Find


def find_by(connection: str) -> Find:
    """Gives a way to look an endpoint up, in the triggerer and in a worker's event loop alike."""

    async def find() -> Endpoint:
        found = await BaseHook.aget_connection(connection)
        made = endpoint_of(
            connection,
            schema=found.schema or "",
            host=found.host or "",
            port=found.port,
            password=found.password or "",
            extra=found.extra_dejson,
        )
        if made.token:
            await amask_secret(made.token)
        return made

    return find
