"""What a step may ask of the engine while it runs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from workflows.engine.errors import RunOver
from workflows.log import Blobs, Fenced, Store, decode, encode, stored_records

PROGRESS_INTERVAL_S = 1.0
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished part of a step, recorded by an attempt before it ended or died.

    Attributes:
        attempt: The attempt that wrote it, counted from 1.
        name: Its name, unique within the attempt.
        data: What was recorded.
    """

    attempt: int
    name: str
    data: Any


def token_of(origin: str, step_id: str) -> str:
    """32 hex digits that are the same for all attempts at a step, and for no other step of any run."""
    return hashlib.sha256(f"{origin}\n{step_id}".encode()).hexdigest()[:32]


def attempt_folder(run_id: str, step_id: str, attempt: int) -> str:
    """Where an attempt writes, and nobody else. The four digits keep it apart from the paths of continuations."""
    return f"runs/{run_id}/steps/{step_id}/{attempt:04}"


class Context:
    """The surroundings of one attempt at one step.

    Attributes:
        run_id: The run.
        step_id: Path of the step in the run's graph.
        attempt: Counted from 1 over the whole life of the run, never reused.
        epoch: The claim under which the runner works.
        token: 32 hex digits, the same for all attempts at this step.
        store: The run's storage.
        blobs: Content-addressed values in it.
        stopped: Why this attempt must stop, once `fence` has found out.
    """

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        *,
        run_id: str,
        step_id: str,
        attempt: int,
        epoch: int,
        origin: str,
        length: int,
    ) -> None:
        self.run_id = run_id
        self.step_id = step_id
        self.attempt = attempt
        self.epoch = epoch
        self.token = token_of(origin, step_id)
        self.store = store
        self.blobs = blobs
        self.stopped: Fenced | RunOver | None = None
        self._folder = attempt_folder(run_id, step_id, attempt)
        self._length = length
        self._names: set[str] = set()
        self._shown_at, self._shown = float("-inf"), (-1.0, "")

    @cached_property
    def scratch(self) -> Path:
        """A local folder of this attempt alone, removed when it ends."""
        return Path(tempfile.mkdtemp(prefix=f"{self.run_id[:20]}-"))

    @cached_property
    def previous(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of earlier attempts, oldest first."""
        found = []
        for attempt in range(1, self.attempt):
            folder = f"{attempt_folder(self.run_id, self.step_id, attempt)}/checkpoints"
            for info in self.store.list(folder):
                body = json.loads(self.store.get(info.key))
                found.append(Checkpoint(attempt, body["name"], decode(body["data"], self.blobs)))
        return tuple(found)

    def fence(self) -> None:
        """Returns if the runner still holds the run; stands before each effect outside.

        It reads the records written since it last looked, so its answer is that of the log, not of a lease.

        Raises:
            Fenced: Another runner has claimed the run; this attempt must stop.
            RunOver: The run was cancelled or has ended.
        """
        if self.stopped is not None:
            raise self.stopped
        for record in stored_records(self.store, f"runs/{self.run_id}", self._length):
            self._length = record.index + 1
            if record.kind == "claimed" and record.epoch > self.epoch:
                self.stopped = Fenced(f"runs/{self.run_id}", self.epoch, record.epoch)
            elif record.kind in {"cancel_asked", "cancelled", "deleted"}:
                self.stopped = RunOver(self.run_id, "being cancelled" if record.kind == "cancel_asked" else record.kind)
            if self.stopped is not None:
                raise self.stopped

    def checkpoint(self, name: str, data: Any) -> None:
        """Records a finished part of the step durably. Later attempts find it in `previous`.

        Raises:
            ValueError: This attempt has a checkpoint of that name.
        """
        if name in self._names:
            raise ValueError(f"attempt {self.attempt} of {self.step_id} has a checkpoint {name!r} already")
        body = json.dumps({"name": name, "data": encode(data, self.blobs)}, separators=(",", ":")).encode("ascii")
        key = f"{self._folder}/checkpoints/{len(self._names):06}-{_UNSAFE.sub('-', name)[:80]}.json"
        self.store.create(key, body)
        self._names.add(name)

    def progress(
        self, done: float, total: float, message: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Shows how far the step is. Cheap, lossy: what moves is written once a second at most, a new phase at once."""
        now = time.monotonic()
        new_phase = done == self._shown[0] and message != self._shown[1]
        if now - self._shown_at < PROGRESS_INTERVAL_S and not new_phase:
            return
        self._shown_at, self._shown = now, (done, message)
        body = {
            "done": done,
            "total": total,
            "message": message[:500],
            "metrics": dict(metrics or {}),
            "at": time.time(),
        }
        self.store.put(f"{self._folder}/progress.json", json.dumps(body).encode())

    def close(self) -> None:
        """Removes the scratch folder, if anybody asked for one."""
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch, ignore_errors=True)
