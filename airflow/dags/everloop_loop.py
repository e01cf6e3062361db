"""The loop by the clock, and sooner if it is wanted.

However many events came in while a round ran, one round follows: each reads everything that is new since the last
one committed, so an event that is lost or late costs time, never data.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import (
    DAG,
    AssetOrTimeSchedule,
    AsyncCallback,
    CronTriggerTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
)
from everloop.assets import ROUND, WANTED
from everloop.callbacks import notify_deadline, notify_failure, notify_skipped, notify_success
from everloop.operator import RayPipelineOperator

ALLOWED_S = float(os.environ.get("EVERLOOP_DEADLINE_S", "21600"))


def announce(context, result) -> None:
    """Puts what the round came to into its asset event."""
    told = result if isinstance(result, dict) else {}
    shown = ("run_id", "dataset_version", "model_version", "verdict", "release")
    context["outlet_events"][ROUND].extra = {key: told.get(key) for key in shown}


with DAG(
    "everloop_loop",
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(os.environ.get("EVERLOOP_CRON", "0 3 * * *"), timezone="UTC"),
        assets=[WANTED],
    ),
    catchup=False,
    max_active_runs=1,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=ALLOWED_S),
        callback=AsyncCallback(notify_deadline, kwargs={"allowed_s": ALLOWED_S}),
    ),
    params={
        "recipe": Param(None, type=["null", "string"], description="By default the Variable everloop_recipe."),
        "storage": Param(None, type=["null", "string"], description="By default the Variable everloop_storage."),
        "overrides": Param(
            [],
            type="array",
            items={"type": "string"},
            description="section.key=value items; by default everloop_overrides.",
        ),
    },
    tags=["everloop"],
):
    RayPipelineOperator(
        task_id="run",
        recipe="{{ params.recipe or var.value.get('everloop_recipe', 'tiny') }}",
        storage="{{ params.storage or var.value.everloop_storage }}",
        overrides="{{ params.overrides | tojson if params.overrides else var.value.get('everloop_overrides', '[]') }}",
        python="{{ var.value.get('everloop_python', 'python') }}",
        poll_s=float(os.environ.get("EVERLOOP_POLL_S", "10")),
        retries=3,
        retry_delay=timedelta(seconds=30),
        retry_exponential_backoff=True,
        max_retry_delay=timedelta(minutes=15),
        outlets=[ROUND],
        post_execute=announce,
        on_success_callback=notify_success,
        on_failure_callback=notify_failure,
        on_skipped_callback=notify_skipped,
    )
