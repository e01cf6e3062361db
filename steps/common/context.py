"""What a step may ask of whoever runs it.

Steps know no engine. They are handed an object of this shape; the engine has one, and `steps.common.alone` has one for
`python -m steps.<name>` and for tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from workflows.log import Blobs, Store


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A finished part of a step, recorded by an attempt before it ended or died.

    Attributes:
        attempt: The attempt that wrote it, counted from 1.
        name: Its name, unique within the attempt, for example `trial-3`.
        data: What was recorded: JSON values, and the project's own records.
    """

    attempt: int
    name: str
    data: Any


class StepContext(Protocol):
    """The surroundings of one attempt at one step.

    Attributes:
        run_id: The run that this step belongs to.
        step_id: Path of the step in the run's graph.
        attempt: Counted from 1 over the whole life of the run, never reused.
        epoch: The claim under which the runner works; grows with every take-over.
        token: 32 hex digits, the same for all attempts at this step. Effects outside carry it, and ask the sink for it
            before they repeat themselves.
        store: The run's storage, rooted at the storage URI.
        blobs: Content-addressed values in that storage.
        scratch: A local folder of this attempt alone, removed when the attempt ends.
        previous: Checkpoints of earlier attempts, oldest first.
    """

    run_id: str
    step_id: str
    attempt: int
    epoch: int
    token: str
    store: Store
    blobs: Blobs
    scratch: Path
    previous: Sequence[Checkpoint]

    def fence(self) -> None:
        """Returns if the runner still holds the run; stands before each effect outside.

        Raises:
            workflows.log.Fenced: Another runner has claimed the run; this attempt must stop.
        """

    def checkpoint(self, name: str, data: Any) -> None:
        """Records a finished part of the step durably. Later attempts find it in `previous`."""

    def progress(
        self, done: float, total: float, message: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Shows how far the step is. Cheap, lossy, may be called often."""
