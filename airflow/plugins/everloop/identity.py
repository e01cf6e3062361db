"""Names that are known before anything is submitted, so that whoever comes back finds what is there.

A retry or a clear of a task has the same dag, task, run and map index, and so the same run of the loop. A run anew
is a new DAG run.
"""

from __future__ import annotations

import hashlib
import json


def workflow_id(dag_id: str, task_id: str, run_id: str, map_index: int = -1) -> str:
    """Gives the id of the durable run that belongs to a task: 32 hexadecimal digits."""
    named = json.dumps([dag_id, task_id, run_id, map_index], ensure_ascii=True)
    return hashlib.sha256(named.encode()).hexdigest()[:32]


def submission_id(workflow: str, attempt: int) -> str:
    """Gives the id of the Ray job that drives the run for the n-th time."""
    return f"{workflow}-a{attempt}"
