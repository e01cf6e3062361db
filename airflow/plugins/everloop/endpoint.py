"""Where a neighbour is, and the token that it asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everloop.errors import Unreachable


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An HTTP neighbour.

    Attributes:
        url: Its base, without a slash at the end.
        connection: Id of the Airflow connection that it was read from.
        token: Bearer token, or empty. Not in `repr`, so not in a log.
        verify: Whether certificates are checked, or the path of a CA bundle.
    """

    url: str
    connection: str
    token: str = field(default="", repr=False)
    verify: bool | str = True

    @property
    def headers(self) -> dict[str, str]:
        """What each request carries."""
        return {"authorization": f"Bearer {self.token}"} if self.token else {}


def endpoint_of(
    connection: str, *, schema: str, host: str, port: int | None, password: str, extra: Mapping[str, Any]
) -> Endpoint:
    """Reads an endpoint from the fields of an Airflow connection.

    The extra `head` names the file in which a Ray head of one machine is recorded (`ray.json`): its port and token
    change with every start, so the file is read each time. The extra `verify` is false or the path of a CA bundle.

    Raises:
        Unreachable: The recorded head is not there now.
        ValueError: The connection names neither a host nor a head.
    """
    if extra.get("head"):
        return _recorded_head(connection, Path(str(extra["head"])))
    if not host:
        raise ValueError(f"connection {connection!r}: give a host, or the extra `head` with the path of ray.json")
    base = f"{schema or 'http'}://{host}" + (f":{port}" if port else "")
    return Endpoint(base, connection, password, extra.get("verify", True))


def _recorded_head(connection: str, path: Path) -> Endpoint:
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        token = Path(head["token_file"]).read_text(encoding="utf-8").strip()
        dashboard = str(head["dashboard"]).rstrip("/")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreachable("the Ray head", f"{path}: {type(error).__name__}") from error
    if not dashboard:
        raise Unreachable("the Ray head", f"{path}: it was started without its Jobs API")
    return Endpoint(dashboard, connection, token)
