"""Drives a run: hands ready steps to Ray, writes down what they bring, until the run ends or parks."""

from __future__ import annotations

import json
import logging
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from workflows.engine.claims import Liveness
from workflows.engine.errors import StepFailure
from workflows.engine.schedule import Bounds, Outcome, advance, next_due
from workflows.engine.state import RunFold, RunState
from workflows.engine.worker import Attempt, run_attempt, started_key
from workflows.log import Draft, Log, Record, Store, failpoint

_logger = logging.getLogger(__name__)

OBSERVE_INTERVAL_S = 0.5
ENDS = frozenset({"succeeded", "failed", "cancelled", "parked"})


EnvironmentOf: TypeAlias = Callable[[str, str, str], Mapping[str, str]]
"""Environment variables for the attempts at a step, by run, step and function (`module:qualname`), inherited by all
that they start. A step that has any gets worker processes of its own.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a runner looks around, in seconds.

    Attributes:
        poll_s: Between looks at the log for what others wrote, while nothing happens.
        grace_s: From a request to stop until an attempt is ended by force, and again until it is given up.
        ttl_s: Silence after which the runner counts as dead.
    """

    poll_s: float = 0.25
    grace_s: float = 10.0
    ttl_s: float = 30.0


@dataclass(slots=True)
class _Flight:
    """An attempt that Ray has."""

    step: str
    attempt: int
    reference: Any
    submitted_at: float
    started_at: float | None = None
    stop_at: float | None = None
    forced: bool = False
    timeout: str = ""


@dataclass(slots=True)
class _Tasks:
    """Ray's remote functions, one per shape of resources: making one costs more than calling it."""

    recorded_code: str
    _made: dict[tuple[float, float, int | None, frozenset[tuple[str, str]]], Any] = field(default_factory=dict)

    def submit(self, options: Mapping[str, Any], payload: bytes, environment: Mapping[str, str]) -> Any:
        import ray

        own = dict(environment) | ({"RECORDED_CODE": self.recorded_code} if self.recorded_code else {})
        shape = (options["num_cpus"], options["num_gpus"], options["memory_bytes"], frozenset(own.items()))
        if shape not in self._made:
            # Ray must not repeat an attempt behind the journal.
            self._made[shape] = ray.remote(
                num_cpus=shape[0],
                num_gpus=shape[1],
                memory=shape[2],
                max_retries=0,
                retry_exceptions=False,
                # A variable of its own gives it worker processes of its own, in which no present module is loaded yet,
                # and no other step has left anything.
                runtime_env={"env_vars": own} if own else None,
            )(run_attempt)
        return self._made[shape].remote(payload)


class Runner:
    """Drives one claimed run. Its records carry the claim's epoch; once another runner has claimed the run they are
    refused.
    """

    def __init__(
        self,
        store: Store,
        log: Log[RunState],
        fold: RunFold,
        run_id: str,
        epoch: int,
        *,
        bounds: Bounds,
        pace: Pace,
        connect: Callable[[], None],
        observe: Callable[[RunState], None] | None = None,
        recorded_code: str = "",
        environment_of: EnvironmentOf | None = None,
    ) -> None:
        """Takes a log whose last claim is this runner's.

        Args:
            store: Where the run is.
            log: The run's log, opened.
            fold: Its fold.
            run_id: The run.
            epoch: The claim.
            bounds: How much at a time.
            pace: How fast.
            connect: Called before the first step is handed to Ray.
            observe: Is shown the state now and then.
            recorded_code: SHA-256 of the bundle that workers are to run, empty for the present code.
            environment_of: Variables for the attempts at a step.
        """
        self._store = store
        self._log = log
        self._fold = fold
        self._run_id = run_id
        self._epoch = epoch
        self._bounds = bounds
        self._pace = pace
        self._connect = connect
        self._observe = observe
        self._recorded_code = recorded_code
        self._environment_of = environment_of
        self._observed_at = float("-inf")
        self._flights: dict[Any, _Flight] = {}
        self._tasks: _Tasks | None = None
        self._cancel_since: float | None = None

    def drive(self) -> None:
        """Returns when the run has ended or is parked.

        Raises:
            Fenced: Another runner has claimed the run; its attempts here are stopped.
            RunOver: The run was ended by somebody else.
        """
        with Liveness(self._store, self._run_id, self._epoch, ttl_s=self._pace.ttl_s) as liveness:
            try:
                self._loop(liveness.now)
            finally:
                self._stop_all()

    def _loop(self, now: Callable[[], float]) -> None:
        outcomes: list[Outcome] = []
        while True:
            failpoint("engine.runner.before-advance")
            record = self._log.append(partial(self._decide, outcomes, now()))
            failpoint("engine.runner.after-advance")
            state = self._log.state
            outcomes = [
                o
                for o in outcomes
                if o.step in state.running and state.steps[o.step].attempts == o.attempt and o.kind != "stopped"
            ]
            if record is not None:
                if record.kind in ENDS:
                    self._show(state, force=True)
                    return
                self._submit(state, record)
            self._show(state)
            self._enforce(state, now())
            if record is None or (self._flights and not outcomes):
                outcomes += self._wait(self._patience(state, now(), idle=record is None))

    def _decide(self, outcomes: Sequence[Outcome], now: float, state: RunState) -> Draft | None:
        not_ended = None
        if state.cancel is not None:
            mine = sorted(flight.step for flight in self._flights.values())
            given_up = self._cancel_since is not None and time.monotonic() - self._cancel_since > 2 * self._pace.grace_s
            not_ended = mine if given_up or not mine else None
        return advance(
            self._fold, self._run_id, state, self._epoch, outcomes, now=now, bounds=self._bounds, not_ended=not_ended
        )

    def _submit(self, state: RunState, record: Record) -> None:
        for step, attempt in record.data.get("started", ()):
            if self._tasks is None:
                self._connect()
                self._tasks = _Tasks(self._recorded_code)
            function = state.steps[step].node.function
            options = state.functions[function]
            payload = pickle.dumps(_fields_of(self._attempt(state, step, attempt, options)), protocol=5)
            environment = self._environment_of(self._run_id, step, function) if self._environment_of else {}
            reference = self._tasks.submit(options, payload, environment)
            self._flights[reference] = _Flight(step, attempt, reference, time.monotonic())
            failpoint("engine.runner.after-submit")

    def _attempt(self, state: RunState, step: str, attempt: int, options: Mapping[str, Any]) -> Attempt:
        found = state.steps[step]
        root = found.owner or step
        needs = {}
        for need in found.node.needs:
            giver = state.steps[need]
            needs[need] = (giver.result, may_be_pickled(state, need))
        return Attempt(
            storage=self._store.uri,
            run_id=self._run_id,
            origin=state.created["run_id"],
            step=step,
            attempt=attempt,
            epoch=self._epoch,
            length=state.length,
            function=found.node.function,
            arguments=found.node.arguments,
            results=needs,
            scope=f"{root}/{state.steps[root].generation + 1}",
            announce=options["queue_s"] is not None or options["attempt_s"] is not None,
            fence_interval_s=self._pace.ttl_s / 3,
            recorded_code=self._recorded_code,
        )

    def _patience(self, state: RunState, now: float, *, idle: bool) -> float:
        """How long to wait for attempts: until something is due, at most until the log is to be looked at again."""
        due = next_due(state)
        patience = self._pace.poll_s if due is None else max(0.0, min(self._pace.poll_s, due - now))
        return max(patience, 0.002) if idle else patience

    def _wait(self, timeout_s: float) -> list[Outcome]:
        if not self._flights:
            time.sleep(timeout_s)
            self._log.refresh()
            return []
        import ray

        references = list(self._flights)
        if len(references) == 1:
            # One call instead of two: in a chain it is all the runner does.
            return self._one_outcome(references[0], timeout_s)
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout_s)
        if not ready:
            self._log.refresh()
            return []
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        return [self._outcome(reference) for reference in ready]

    def _one_outcome(self, reference: Any, timeout_s: float) -> list[Outcome]:
        import ray

        try:
            return [self._outcome(reference, timeout_s)]
        except ray.exceptions.GetTimeoutError:
            self._log.refresh()
            return []

    def _outcome(self, reference: Any, timeout_s: float | None = None) -> Outcome:
        """What an attempt brought.

        Raises:
            ray.exceptions.GetTimeoutError: Nothing yet.
        """
        import ray

        flight = self._flights[reference]
        try:
            text = ray.get(reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise
        except ray.exceptions.RayError as error:
            del self._flights[reference]
            # A time-out is the step's own failure; whether it may be retried is a matter of counts alone.
            return Outcome(flight.step, flight.attempt, "failed", _lost(error, flight))
        del self._flights[reference]
        answer = json.loads(text)
        if answer["kind"] == "stopped":
            self._log.refresh()
        return Outcome(
            flight.step, flight.attempt, answer["kind"], answer["value"], answer.get("retryable", True), len(text)
        )

    def _enforce(self, state: RunState, now: float) -> None:
        """Asks attempts to stop that are cancelled or out of time, then ends them by force."""
        clock = time.monotonic()
        if state.cancel is not None and self._cancel_since is None:
            self._cancel_since = clock
            for flight in self._flights.values():
                self._stop(flight, clock)
        for flight in self._flights.values():
            options = state.functions[state.steps[flight.step].node.function]
            if flight.stop_at is None and (timeout := self._timed_out(state, flight, options, now)):
                flight.timeout = timeout
                self._stop(flight, clock)
            elif flight.stop_at is not None and not flight.forced and clock > flight.stop_at + self._pace.grace_s:
                self._stop(flight, clock, force=True)

    def _timed_out(self, state: RunState, flight: _Flight, options: Mapping[str, Any], now: float) -> str:
        queue_s, attempt_s, total_s = options["queue_s"], options["attempt_s"], options["total_s"]
        if queue_s is None and attempt_s is None and total_s is None:
            return ""
        first = state.steps[flight.step].first_started_at
        if total_s is not None and first is not None and now - first > total_s:
            return f"not done in {total_s:g} s over all attempts"
        waited = time.monotonic() - flight.submitted_at
        if (
            flight.started_at is None
            and (attempt_s or queue_s)
            and waited > min(attempt_s or waited, queue_s or waited)
        ):
            info = self._store.head(started_key(self._run_id, flight.step, flight.attempt))
            flight.started_at = info.modified_at if info else None
        if flight.started_at is None:
            return f"not started in {queue_s:g} s" if queue_s is not None and waited > queue_s else ""
        if attempt_s is not None and now - flight.started_at > attempt_s:
            return f"attempt not done in {attempt_s:g} s"
        return ""

    def _stop(self, flight: _Flight, clock: float, *, force: bool = False) -> None:
        import ray

        _logger.info("stopping attempt %d at %s%s", flight.attempt, flight.step, " by force" if force else "")
        flight.stop_at, flight.forced = flight.stop_at or clock, force
        ray.cancel(flight.reference, force=force, recursive=True)

    def _stop_all(self) -> None:
        """Nothing that this runner started outlives it: what is not recorded will be run again."""
        if not self._flights:
            return
        import ray

        for flight in self._flights.values():
            if ray.is_initialized():
                ray.cancel(flight.reference, force=True, recursive=True)
        self._flights.clear()

    def _show(self, state: RunState, *, force: bool = False) -> None:
        if self._observe is None:
            return
        now = time.monotonic()
        if force or now - self._observed_at >= OBSERVE_INTERVAL_S:
            self._observed_at = now
            self._observe(state)


def _fields_of(attempt: Attempt) -> tuple[Any, ...]:
    """The fields in order; `dataclasses.astuple` would copy every value in them."""
    return tuple(getattr(attempt, name) for name in Attempt.__slots__)


def may_be_pickled(state: RunState, step: str) -> bool:
    """Whether a result may hold a pickle: its own step allows it, or one in its continuation did."""
    if state.functions[state.steps[step].node.function]["pickle"]:
        return True
    return state.steps[step].generation > 0 and any(options["pickle"] for options in state.functions.values())


def _lost(error: Exception, flight: _Flight) -> dict[str, Any]:
    import ray

    if flight.timeout:
        return _failure("builtins:TimeoutError", flight.timeout, "timeout")
    name = f"{type(error).__module__}:{type(error).__qualname__}"
    kind = "out_of_memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else "lost"
    return _failure(name, str(error), kind)


def _failure(name: str, message: str, kind: str) -> dict[str, Any]:
    failure = StepFailure(name, message[:2000], "", kind)
    return {"type": failure.type, "message": failure.message, "traceback": failure.traceback, "kind": failure.kind}
