"""Ids are known before anything is submitted."""

from __future__ import annotations

from everloop.identity import submission_id, workflow_id


def test_a_retry_and_a_clear_have_the_same_run() -> None:
    assert workflow_id("loop", "run", "scheduled__1") == workflow_id("loop", "run", "scheduled__1", -1)
    assert workflow_id("loop", "run", "scheduled__1") == "bcf9d85532c79574e8627f2555a02644"


def test_another_dag_run_task_or_map_index_is_another_run() -> None:
    ids = [
        workflow_id("loop", "run", "scheduled__1"),
        workflow_id("loop", "run", "scheduled__2"),
        workflow_id("loop", "run2", "scheduled__1"),
        workflow_id("loop2", "run", "scheduled__1"),
        workflow_id("loop", "run", "scheduled__1", 0),
        workflow_id("loop", "run", "scheduled__1", 1),
        workflow_id("loop/run", "", "scheduled__1"),
    ]
    assert len(set(ids)) == len(ids)


def test_each_attempt_has_an_id_of_its_own() -> None:
    assert [submission_id("r", number) for number in range(3)] == ["r-a0", "r-a1", "r-a2"]
