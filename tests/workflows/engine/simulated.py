"""A runner without Ray: it runs attempts in place, one at a time, so that a test decides what happens in which
order.
"""

from __future__ import annotations

import json
import pickle
from typing import Any

from workflows.engine import Engine
from workflows.engine.claims import claim
from workflows.engine.runner import Pace, Runner
from workflows.engine.schedule import Bounds, Outcome, advance
from workflows.engine.state import RunState
from workflows.engine.worker import run_attempt
from workflows.log import Log, Record


class Simulated:
    """One runner over a run. Each call does one thing, and raises what a real runner would stop for."""

    def __init__(self, engine: Engine, run_id: str, *, bounds: Bounds | None = None) -> None:
        self.engine = engine
        self.run_id = run_id
        self.fold = engine._fold
        self.bounds = bounds or Bounds(inline_wait_s=0.0)
        self.log: Log[RunState] = Log(engine.store, f"runs/{run_id}", self.fold)
        self.epoch = 0
        self.started: list[tuple[str, int]] = []
        self.brought: list[Outcome] = []

    def claim(self, *, now: float = 0.0, ttl_s: float = float("-inf")) -> None:
        """Claims the run, whoever holds it: with no TTL everybody else counts as dead."""
        state = self.log.refresh()
        expected = state.claim.index if state.claim else None
        record = self.log.append(
            lambda s: claim(self.engine.store, self.run_id, s, ttl_s=ttl_s, expected=expected, at=now, changes={})
        )
        assert record is not None
        self.epoch = record.epoch
        self.started, self.brought = [], []

    def work(self) -> bool:
        """Runs one attempt that was started; whether there was one."""
        if not self.started:
            return False
        step, attempt = self.started.pop(0)
        runner = Runner(
            self.engine.store, self.log, self.fold, self.run_id, self.epoch,
            bounds=self.bounds, pace=Pace(), connect=lambda: None,
        )  # fmt: skip
        state = self.log.state
        told = runner._attempt(state, step, attempt, state.functions[state.steps[step].node.function])
        answer = json.loads(run_attempt(pickle.dumps(tuple(getattr(told, name) for name in told.__slots__))))
        self.brought.append(Outcome(step, attempt, answer["kind"], answer["value"], answer.get("retryable", True)))
        return True

    def write(self, *, now: float = 0.0) -> Record | None:
        """Writes down what the attempts brought and starts what follows."""
        not_ended = [] if not self.started else None
        record = self.log.append(
            lambda state: advance(
                self.fold,
                self.run_id,
                state,
                self.epoch,
                self.brought,
                now=now,
                bounds=self.bounds,
                not_ended=not_ended,
            )
        )
        if record is not None:
            self.brought = []
            self.started += [(step, attempt) for step, attempt in record.data.get("started", ())]
        return record

    def finish(self, *, now: float = 0.0) -> Any:
        """Goes on until nothing more happens; gives the state."""
        for _ in range(10_000):
            if self.write(now=now) is None and not self.work():
                break
            if self.log.state.status != "running":
                break
            self.work()
        return self.log.state
