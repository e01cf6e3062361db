"""What people hear of Airflow, by way of the door, which delivers it and keeps the receipt.

A message that cannot be handed in is logged and dropped: it must not make a task fail that did its work.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from everloop.connections import find_by
from everloop.door import Door
from everloop.errors import EverloopError, Unreachable
from everloop.http import Http

DOOR_CONN_ID = "everloop_door"
PAUSES_S = (1.0, 5.0, 15.0)
_OVER = frozenset({"success", "failed"})
_log = logging.getLogger(__name__)


def notify_success(context: Any) -> None:
    """Says that a task did its work."""
    ti = context["ti"]
    notice = _notice("run.succeeded", "info", f"{ti.dag_id}.{ti.task_id} succeeded", f"DAG run {ti.run_id}.", ti)
    asyncio.run(_post(notice, _task_key(ti, "ok")))


def notify_failure(context: Any) -> None:
    """Says that a task failed for good, after its last try."""
    ti, error = context["ti"], context.get("exception")
    text = str(error or "No reason is known.")[:2000]
    notice = _notice("run.failed", "critical", f"{ti.dag_id}.{ti.task_id} failed", text, ti)
    asyncio.run(_post(notice, _task_key(ti, f"failed-{ti.try_number}")))


def notify_skipped(context: Any) -> None:
    """Says that admission suppressed a run, with its reason."""
    ti, why = context["ti"], context.get("exception")
    notice = _notice(
        "signal.suppressed",
        "info",
        f"{ti.dag_id}.{ti.task_id} was not started",
        str(why or "No reason is known.")[:2000],
        ti,
    )
    asyncio.run(_post(notice, _task_key(ti, f"skipped-{ti.try_number}")))


async def notify_deadline(context: Mapping[str, Any], allowed_s: float) -> str:
    """Says that a DAG run takes too long. Airflow calls this also for one that has failed meanwhile
    (apache/airflow#60927): that was told already, so nothing is said.

    Args:
        context: `dag_run` as Airflow's API shows it.
        allowed_s: The time that was allowed.
    """
    run = context["dag_run"]
    if run["state"] in _OVER:
        return f"the run is {run['state']}: nothing to say"
    notice = {
        "event": "schedule.missed",
        "severity": "warning",
        "title": f"{run['dag_id']} has not ended within {allowed_s:.0f} s",
        "text": f"DAG run {run['dag_run_id']} is {run['state']} and goes on.",
        "facts": {"dag_id": run["dag_id"], "dag_run_id": run["dag_run_id"], "allowed_s": allowed_s},
    }
    await _post(notice, _key(run["dag_id"], run["dag_run_id"], "deadline"))
    return "told"


def _notice(event: str, severity: str, title: str, text: str, ti: Any) -> dict[str, Any]:
    facts = {"dag_id": ti.dag_id, "task_id": ti.task_id, "dag_run_id": ti.run_id, "try_number": ti.try_number}
    return {"event": event, "severity": severity, "title": f"Airflow: {title}", "text": text, "facts": facts}


def _key(*parts: object) -> str:
    """The same event has the same key; ids of DAG runs hold characters that a key must not."""
    return "airflow-" + hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:40]


def _task_key(ti: Any, what: str) -> str:
    return _key(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, what)


async def _post(notice: Mapping[str, Any], key: str) -> None:
    for pause_s in (*PAUSES_S, None):
        try:
            async with Http("the door", await find_by(DOOR_CONN_ID)()) as http:
                await Door(http).notify(notice, key=key)
        except Unreachable as error:
            if pause_s is None:
                _log.error("not told: %s (%s)", notice["title"], error)
                return
            await asyncio.sleep(pause_s)
        except EverloopError as error:
            _log.error("not told: %s (%s)", notice["title"], error)
            return
        else:
            return
