"""Every night: check the journals, bury runs that came to nothing long ago, then collect data that nothing names.

The order matters: nothing is deleted unless every journal of late is whole. A run that made a model is never buried.
"""

from __future__ import annotations

import asyncio
import os
import time

from airflow.sdk import DAG, CronTriggerTimetable, Param, Variable, task
from everloop.callbacks import notify_failure
from everloop.connections import find_by
from everloop.door import Door
from everloop.http import Http
from everloop.operator import RayJobOperator

DAY_S = 86_400.0
CAME_TO_NOTHING = ("failed", "dead", "cancelled")


async def _runs() -> list[dict]:
    async with Http("the door", await find_by("everloop_door")()) as http:
        return await Door(http).runs()


def _runs_command(verb: str, run_id: str, params: dict) -> list[str]:
    """Mapped values are not rendered as templates, so the Variables are read here."""
    python = Variable.get("everloop_python", default="python")
    storage = params["storage"] or Variable.get("everloop_storage")
    return [python, "-m", "workflows.runs", verb, run_id, "--storage", storage]


with DAG(
    "everloop_maintenance",
    doc_md=__doc__,
    schedule=CronTriggerTimetable(os.environ.get("EVERLOOP_MAINTENANCE_CRON", "30 1 * * *"), timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={"on_failure_callback": notify_failure, "retries": 1},
    params={
        "storage": Param(None, type=["null", "string"], description="By default the Variable everloop_storage."),
        "verify_days": Param(2, type="number", minimum=0, description="Journals written to since then are checked."),
        "keep_days": Param(90, type="number", minimum=1, description="Failed runs are buried after this time."),
    },
    tags=["everloop"],
):

    @task
    def list_recent(params) -> list[list[str]]:
        """The commands that check each run of late."""
        since = time.time() - float(params["verify_days"]) * DAY_S
        found = [run["run_id"] for run in asyncio.run(_runs()) if run["updated_at"] >= since]
        return [_runs_command("verify", run_id, params) for run_id in found]

    @task(trigger_rule="none_failed")
    def list_old(params) -> list[list[str]]:
        """The commands that bury each run that came to nothing long ago."""
        until = time.time() - float(params["keep_days"]) * DAY_S
        found = [
            run["run_id"]
            for run in asyncio.run(_runs())
            if run["updated_at"] < until and run["status"] in CAME_TO_NOTHING
        ]
        return [_runs_command("delete", run_id, params) for run_id in found]

    verify = RayJobOperator.partial(task_id="verify", max_active_tis_per_dag=1).expand(command=list_recent())
    old = list_old()
    bury = RayJobOperator.partial(task_id="bury", max_active_tis_per_dag=1).expand(command=old)
    collect = RayJobOperator(
        task_id="collect",
        command=[
            "{{ var.value.get('everloop_python', 'python') }}",
            *("-m", "steps.version", "gc", "--storage"),
            "{{ params.storage or var.value.everloop_storage }}",
        ],
        trigger_rule="none_failed",
    )
    verify >> old
    bury >> collect
