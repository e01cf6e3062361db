"""DAGs of the tests: small jobs by the real operator."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG, Asset, AsyncCallback, DeadlineAlert, DeadlineReference, Param
from everloop.callbacks import notify_deadline, notify_failure, notify_skipped, notify_success
from everloop.operator import RUN_ID, RayJobOperator

JOB = [os.environ["TINY_PYTHON"], os.environ["TINY_JOB"], RUN_ID, os.environ["TINY_FOLDER"]]
CALLBACKS = {
    "on_success_callback": notify_success,
    "on_failure_callback": notify_failure,
    "on_skipped_callback": notify_skipped,
}
TINY_DATA = Asset(name="tiny_data", uri="tiny://data")
# On an overloaded machine Airflow spends tries of its own: a scheduler that hears late of a deferral takes it for a
# failure. With the poll of production, 10 s, that is rare.
PATIENCE = {"poll_s": 2.0, "retries": 4, "retry_delay": timedelta(seconds=1)}

with DAG("tiny", schedule=None, catchup=False, params={"exit_code": Param("0", type="string")}):
    RayJobOperator(
        task_id="job",
        command=[*JOB, "{{ params.exit_code }}"],
        door_conn_id="everloop_door",
        **PATIENCE,
        **CALLBACKS,
    )

with DAG("tiny_wrong_token", schedule=None, catchup=False):
    RayJobOperator(task_id="job", command=JOB, ray_conn_id="wrong_token", **PATIENCE, **CALLBACKS)

for dag_id, ray_conn_id in (("tiny_deadline", "everloop_ray"), ("tiny_deadline_refused", "wrong_token")):
    with DAG(
        dag_id,
        schedule=None,
        catchup=False,
        deadline=DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(seconds=20),
            callback=AsyncCallback(notify_deadline, kwargs={"allowed_s": 20.0}),
        ),
    ):
        RayJobOperator(task_id="job", command=JOB, ray_conn_id=ray_conn_id, **PATIENCE)

with DAG("tiny_on_data", schedule=[TINY_DATA], catchup=False, max_active_runs=1):
    RayJobOperator(task_id="job", command=JOB, **PATIENCE)
