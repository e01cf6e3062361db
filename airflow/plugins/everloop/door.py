"""The HTTP door of the loop: where a run stands, and who is to be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from everloop.errors import Unreachable

if TYPE_CHECKING:
    from everloop.http import Http

OVER = frozenset({"succeeded", "failed", "dead", "cancelled", "deleted"})


class Door:
    """The door of one loop. Every method raises `Unauthorized` and `Unreachable`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def run(self, run_id: str) -> dict[str, Any] | None:
        """A run (`run_id`, `status`, `reason`, `held`, `steps`, `waits`), or None if there is none of that id."""
        status, answer = await self._http.ask("GET", f"/v1/runs/{run_id}")
        if status == 404:
            return None
        if status >= 400:
            raise self._http.unusable(status, answer)
        if not isinstance(answer, dict) or "status" not in answer:
            raise Unreachable(self._http.what, "no status of a run")
        return answer

    async def runs(self) -> list[dict[str, Any]]:
        """All runs that the key may see, each with `run_id`, `status` and `updated_at`."""
        status, answer = await self._http.ask("GET", "/v1/runs")
        if status >= 400:
            raise self._http.unusable(status, answer)
        if not isinstance(answer, dict) or "runs" not in answer:
            raise Unreachable(self._http.what, "no list of runs")
        return list(answer["runs"])

    async def notify(self, notice: Mapping[str, Any], *, key: str) -> None:
        """Hands in something that people are to hear of; the same key, the same notice.

        Raises:
            BadRequest: The door does not take it.
        """
        status, answer = await self._http.ask("POST", "/v1/hooks/notify", body=notice, headers={"idempotency-key": key})
        if status >= 400:
            raise self._http.unusable(status, answer)
