"""One attempt at one step, inside a Ray worker.

A step's own failure is a value, so an exception that reaches the runner means that the worker or its node is gone.
"""

from __future__ import annotations

import atexit
import importlib
import io
import json
import logging
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from workflows.engine.code import LIBRARY
from workflows.engine.context import Context
from workflows.engine.errors import NotImportable, RunOver, StepFailure
from workflows.engine.graph import capture, decoded_arguments, is_node
from workflows.engine.packing import pack
from workflows.engine.step import Caught, resolve_step
from workflows.log import JSON, BlobRef, Blobs, Buffer, Fenced, LogError, Store, decode, encode, failpoint, open_store
from workflows.log.redaction import Redactor, environment_secrets, redact_handlers
from workflows.log.served_credentials import cash_ticket

MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
MAX_PASSED_ON_BYTES = 128 * 2**20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a worker is told.

    Attributes:
        storage: URI of the run's storage.
        run_id: The run.
        origin: The run id that tokens are made of.
        step: The step.
        attempt: Its number.
        epoch: The runner's claim.
        length: Records of the run when it was handed out; the fence looks from here on.
        function: Address of the step's function.
        arguments: Encoded arguments.
        results: Encoded results of the steps it takes, and whether each may be pickled.
        scope: Path for the steps of a continuation.
        announce: Whether to write down that it has started (a time-out is counted from there).
        fence_interval_s: How often a long attempt checks that its runner still holds the run.
        recorded_code: SHA-256 of the bundle to import from, empty for the present code.
    """

    storage: str
    run_id: str
    origin: str
    step: str
    attempt: int
    epoch: int
    length: int
    function: str
    arguments: JSON
    results: dict[str, tuple[JSON, bool]]
    scope: str
    announce: bool
    fence_interval_s: float
    recorded_code: str


class PassedOn(Blobs):
    """Blobs of a worker process. What one attempt wrote the next one in the process may have without reading it again.

    In a chain that hands on large values this halves the work: the reader need not read, nor check what its own
    process wrote.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._written: dict[str, bytes] = {}
        self._inherited: dict[str, bytes] = {}

    def put(self, data: Buffer, media_type: str = "application/octet-stream") -> BlobRef:
        ref = super().put(data, media_type)
        if ref.size + sum(map(len, list(self._written.values()))) <= MAX_PASSED_ON_BYTES:
            self._written[ref.sha256] = data if isinstance(data, bytes) else bytes(data)
        return ref

    def get(self, ref: BlobRef) -> bytes:
        known = self._inherited.get(ref.sha256)
        return super().get(ref) if known is None else known

    def next_attempt(self) -> None:
        """Forgets all but what the attempt that just ended has written."""
        self._inherited, self._written = self._written, {}


@cache
def storage_of(uri: str) -> tuple[Store, PassedOn]:
    """The storage, opened once per process."""
    store = open_store(uri)
    return store, PassedOn(store)


@cache
def use_recorded_code(storage: str, sha256: str) -> None:
    """Lets this process import from a recorded bundle before anything else. The engine itself stays the present one."""
    _, blobs = storage_of(storage)
    folder = Path(tempfile.mkdtemp(prefix="recorded-code-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(blobs.get(BlobRef(sha256, 0)))) as archive:
        archive.extractall(folder)
    sys.path.insert(0, str(folder))
    for name, module in list(sys.modules.items()):
        # A package that is loaded already, because the engine is in it, finds its other modules in the bundle.
        inside = folder.joinpath(*name.split("."))
        if inside.is_dir() and not name.startswith(LIBRARY):
            module.__path__ = [str(inside), *module.__path__]
    importlib.invalidate_caches()


@cache
def redacted_logging() -> Redactor:
    """Has what this process logs go without the secrets in its environment; gives what takes them out."""
    redactor = Redactor(environment_secrets(os.environ))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    redact_handlers(redactor, logging.getLogger())
    return redactor


def run_attempt(payload: bytes) -> bytes:
    """Runs an attempt; gives `{"kind", "value", "retryable"}` as JSON (see `schedule.Outcome`)."""
    attempt = Attempt(*pickle.loads(payload))  # noqa: S301 - from our own runner, over Ray's authenticated channel
    cash_ticket(os.environ)
    store, blobs = storage_of(attempt.storage)
    blobs.next_attempt()
    context = Context(
        store,
        blobs,
        run_id=attempt.run_id,
        step_id=attempt.step,
        attempt=attempt.attempt,
        epoch=attempt.epoch,
        origin=attempt.origin,
        length=attempt.length,
    )
    redacted_logging()
    watch = _watch()
    watch.enter(context, attempt.fence_interval_s)
    try:
        if attempt.announce:
            store.put(started_key(attempt.run_id, attempt.step, attempt.attempt), b"{}")
        return json.dumps(_outcome(attempt, context), separators=(",", ":")).encode("ascii")
    finally:
        watch.leave(context)
        context.close()


def started_key(run_id: str, step: str, attempt: int) -> str:
    """The object by which an attempt says that it has started."""
    return f"runs/{run_id}/steps/{step}/{attempt:04}/started.json"


def _outcome(attempt: Attempt, context: Context) -> JSON:
    step: Any = None
    try:
        if attempt.recorded_code:
            use_recorded_code(attempt.storage, attempt.recorded_code)
        step = resolve_step(attempt.function)
        args, kwargs = _arguments(attempt, context.blobs)
        if step.wants_context:
            kwargs["ctx"] = context
        failpoint("engine.worker.before-step")
        value = step.function(*args, **kwargs)
        failpoint("engine.worker.after-step")
        return _encoded(value, step, attempt, context.blobs)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a step raises is its result
        if context.stopped is not None:
            return {"kind": "stopped", "value": str(context.stopped)}
        if _is_loss(error):
            return {"kind": "failed", "value": asdict(failure_of(error, "lost"))}
        retryable = step is not None and not isinstance(error, NotImportable) and step.retries.worth_another(error)
        return {"kind": "failed", "value": asdict(failure_of(error)), "retryable": retryable}


def _arguments(attempt: Attempt, blobs: Blobs) -> tuple[list[Any], dict[str, Any]]:
    results = {step: decode(result, blobs, pickle=pickled) for step, (result, pickled) in attempt.results.items()}
    return decoded_arguments(attempt.arguments, lambda data: decode(data, blobs), results)


def _encoded(value: Any, step: Any, attempt: Attempt, blobs: Blobs) -> JSON:
    if is_node(value):
        graph = capture(value, lambda part: encode(part, blobs), scope=attempt.scope, where=f"what {attempt.step} gave")
        return {"kind": "continued", "value": pack(graph.to_json(), blobs)}
    result = encode(Caught(value=value) if step.catch else value, blobs, pickle=step.pickle)
    failpoint("engine.worker.after-encode")
    return {"kind": "done", "value": result}


def _is_loss(error: BaseException) -> bool:
    """Whether a process or a node that the step had work on is gone, which is no failure of its own."""
    from ray import exceptions

    gone = (
        exceptions.RayActorError,
        exceptions.WorkerCrashedError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.ObjectLostError,
        exceptions.ActorUnschedulableError,
        exceptions.TaskUnschedulableError,
    )
    # Of an actor that could not be made Ray says that it died.
    return any(
        isinstance(each, gone) and not getattr(each, "actor_init_failed", False)
        for each in (error, getattr(error, "cause", None))
    )


def failure_of(error: BaseException, kind: str = "error") -> StepFailure:
    """An error as data, bounded: a record must not grow with what a program happens to say."""
    cls = type(error)
    redactor = redacted_logging()
    message, text = redactor.text(str(error)), redactor.text("".join(traceback.format_exception(error)))
    return StepFailure(
        f"{cls.__module__}:{cls.__qualname__}", message[:MAX_MESSAGE_CHARS], text[-MAX_TRACEBACK_CHARS:], kind
    )


class _Watch:
    """Ends the process of an attempt whose runner has lost the run.

    A runner that was stopped for a while and replaced leaves its attempts behind, still holding CPUs, actors and the
    attention of the outside. Ray ends what they own with them.
    """

    def __init__(self) -> None:
        self._attempts: dict[int, tuple[Context, float, float]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def enter(self, context: Context, interval_s: float) -> None:
        with self._lock:
            self._attempts[id(context)] = (context, interval_s, time.monotonic() + interval_s)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(interval_s,), name="fence-watch", daemon=True)
                self._thread.start()

    def leave(self, context: Context) -> None:
        with self._lock:
            self._attempts.pop(id(context), None)

    def _run(self, interval_s: float) -> None:
        while True:
            time.sleep(interval_s / 2)
            now = time.monotonic()
            with self._lock:
                due = [context for context, _, due_at in self._attempts.values() if due_at <= now]
            for context in due:
                try:
                    context.fence()
                except Fenced as error:
                    _logger.error("attempt %d at %s stops: %s", context.attempt, context.step_id, error)  # noqa: TRY400
                    os._exit(70)
                except RunOver as error:
                    # Its runner is cancelling it, and gives it time to clean up.
                    _logger.info("attempt %d at %s: %s", context.attempt, context.step_id, error)
                except LogError as error:
                    _logger.warning("attempt %d at %s cannot see its run: %s", context.attempt, context.step_id, error)


@lru_cache(maxsize=1)
def _watch() -> _Watch:
    return _Watch()
