"""Decisions that have not reached their run are handed over while the door runs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from triggers.redelivery import redelivering
from workflows.access import ApprovalDecision, Approvals

DEADLINE_S = 60.0


def test_a_decision_that_the_storage_kept_from_its_run_reaches_it_once_it_answers(durable: Any) -> None:
    run_id = durable.waiting()
    away, arrived = threading.Event(), threading.Event()
    tried = threading.Semaphore(0)
    away.set()

    def deliver(decision: ApprovalDecision) -> None:
        tried.release()
        if away.is_set():
            raise ConnectionError("the storage does not answer")
        durable.client.app.state.api.decide(decision)
        arrived.set()

    approvals = Approvals(durable.loop.engine.store, durable.access.authorizer, deliver)
    digest = durable.client.app.state.api.waiting_digest(run_id, "release")
    token = approvals.issue(run_id, "release", digest, team="local", protected=False, authors=())
    with pytest.raises(ConnectionError):
        approvals.decide(token, durable.access.directory.by_subject("Person::ann"), True, digest=digest)
    assert tried.acquire(timeout=DEADLINE_S)

    with redelivering(approvals, every_s=0.01):
        assert tried.acquire(timeout=DEADLINE_S)
        assert tried.acquire(timeout=DEADLINE_S)
        assert not arrived.is_set()
        away.clear()
        assert arrived.wait(DEADLINE_S)

    assert [decided["by"] for decided in durable.records(run_id, "decided")] == ["Person::ann"]
    assert durable.launched == [run_id, run_id]
    assert approvals.deliver_pending() == 0
