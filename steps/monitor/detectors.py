"""What a drift detector is, ours, and the watch that turns its statistics into alarms.

A detector is fitted once (`fit` of its class), then takes one prompt after the other: `score` gives the statistic,
`threshold` what it must exceed. Its state is constant in size, so it can stand in a record.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from steps.monitor.mmd import MmdReference, MmdWindow
from steps.monitor.scalars import ScalarReference, ScalarWindow
from steps.monitor.streams import Floats

NUM_DETECTORS = 2
"""Each gets this many times the promised run length, so that together they keep it."""


def embedding_detector(engine: str) -> str:
    """Names the detector of embeddings that an engine brings."""
    return "prompt_mmd" if engine == "numpy" else f"prompt_{engine.replace('-', '_')}"


@dataclass(frozen=True, slots=True)
class Point:
    """One prompt as detectors see it.

    Attributes:
        features: Projected embedding, shape [d].
        scalars: Shape [k].
    """

    features: Floats
    scalars: Floats


class Detector(Protocol):
    """A fitted detector.

    Attributes:
        name: In metrics and signals.
        confirm: What the statistic must exceed in the window after an alarm.
        num_confirm: Statistics between an alarm and that window's.
    """

    @property
    def name(self) -> str: ...

    @property
    def confirm(self) -> float: ...

    @property
    def num_confirm(self) -> int: ...

    def score(self, point: Point) -> float | None:
        """Takes a prompt; returns the statistic, or None if this prompt does not complete one."""

    def threshold(self) -> float:
        """Gives the threshold of the last statistic."""

    def restart(self, seed: int) -> None:
        """Forgets what it has seen."""

    def dump(self) -> Any:
        """Gives what it has seen, as JSON."""

    def load(self, state: Any) -> None:
        """Takes back what `dump` gave."""

    def detail(self) -> Mapping[str, float]:
        """Says what the last statistic was about, for people."""


class MmdDetector:
    """Maximum mean discrepancy of embeddings, in numpy."""

    name = "prompt_mmd"

    def __init__(self, reference: MmdReference, seed: int = 0) -> None:
        self.reference = reference
        self.confirm = reference.confirm
        self.num_confirm = reference.window
        self._window = MmdWindow.start(reference, seed)

    def score(self, point: Point) -> float | None:
        return self._window.add(point.features)

    def threshold(self) -> float:
        return self._window.threshold()

    def restart(self, seed: int) -> None:
        self._window = MmdWindow.start(self.reference, seed)

    def dump(self) -> Any:
        return {
            "points": _pack(self._window.points),
            "similarity": _pack(self._window.similarity.astype(np.float32)),
            "num_seen": self._window.num_seen,
        }

    def load(self, state: Any) -> None:
        points = _unpack(state["points"]).reshape(self.reference.window, -1)
        similarity = _unpack(state["similarity"]).astype(np.float64)
        self._window = MmdWindow(self.reference, points, similarity, state["num_seen"])

    def detail(self) -> Mapping[str, float]:
        return {}


class ScalarDetector:
    """Kolmogorov-Smirnov on scalars, a window at a time."""

    name = "scalars_ks"
    num_confirm = 1

    def __init__(self, reference: ScalarReference) -> None:
        self.reference = reference
        self.confirm = reference.confirm
        self._window = ScalarWindow.start(reference)

    def score(self, point: Point) -> float | None:
        return self._window.add(point.scalars)

    def threshold(self) -> float:
        return self.reference.threshold

    def restart(self, seed: int) -> None:  # noqa: ARG002 - nothing here is drawn
        self._window = ScalarWindow.start(self.reference)

    def dump(self) -> Any:
        return _pack(self._window.values)

    def load(self, state: Any) -> None:
        values = _unpack(state).reshape(-1, len(self.reference.names))
        self._window = ScalarWindow(self.reference, values)

    def detail(self) -> Mapping[str, float]:
        return self._window.moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a detector said to one prompt.

    Attributes:
        detector: Its name.
        statistic: Its statistic.
        threshold: What that must exceed.
        alarm: Whether an alarm begins here.
        confirmed: Whether an earlier alarm is confirmed here.
        detail: What it is about, for people.
    """

    detector: str
    statistic: float
    threshold: float
    alarm: bool = False
    confirmed: bool = False
    detail: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Watch:
    """Turns statistics into alarms: one over the threshold is an alarm, the next window confirms or drops it.

    Attributes:
        detector: The detector.
        num_restarts: Starts so far; seeds the window that the detector starts with.
        confirm_in: Statistics until the pending alarm is confirmed or dropped; None if there is none.
    """

    detector: Detector
    num_restarts: int = 0
    confirm_in: int | None = None

    def step(self, point: Point) -> Reading | None:
        """Takes a prompt; returns None if the detector says nothing to this one."""
        statistic = self.detector.score(point)
        if statistic is None:
            return None
        threshold = self.detector.threshold()
        reading = Reading(
            detector=self.detector.name, statistic=statistic, threshold=threshold, detail=self.detector.detail()
        )
        if self.confirm_in is None:
            if statistic <= threshold:
                return reading
            self.confirm_in = self.detector.num_confirm
            return _marked(reading, alarm=True)
        self.confirm_in -= 1
        if self.confirm_in > 0:
            return reading
        confirmed = statistic > self.detector.confirm
        self.restart()
        return _marked(reading, confirmed=confirmed)

    def restart(self) -> None:
        self.num_restarts += 1
        self.confirm_in = None
        self.detector.restart(self.num_restarts)

    def dump(self) -> Any:
        return {
            "num_restarts": self.num_restarts,
            "confirm_in": self.confirm_in,
            "detector": self.detector.dump(),
        }

    def load(self, state: Any) -> None:
        self.num_restarts, self.confirm_in = state["num_restarts"], state["confirm_in"]
        self.detector.load(state["detector"])


def _marked(reading: Reading, *, alarm: bool = False, confirmed: bool = False) -> Reading:
    return Reading(
        detector=reading.detector,
        statistic=reading.statistic,
        threshold=reading.threshold,
        alarm=alarm,
        confirmed=confirmed,
        detail=reading.detail,
    )


def _pack(values: Floats) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _unpack(text: str) -> Floats:
    values: Floats = np.frombuffer(base64.b64decode(text), "<f4").copy()
    return values
