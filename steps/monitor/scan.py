"""The scan: reads what was asked since the last one, moves the detectors on, raises a signal for a confirmed alarm.

The reconciler calls it on every tick. One record holds how far the outcomes were read, what the detectors have seen
and what they said, so a kill -9 anywhere leaves either all of it or none. The signal is raised afterwards, once per
key, and its receipt is a second record; a scan that finds no receipt raises it again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from steps.common.embedding import Embedder, TextEmbedder
from steps.common.outcomes import OutcomeReader
from steps.common.signals import Signal, SignalState, open_signal_log, raise_signal, signal
from steps.monitor.detectors import Point, Reading, Watch
from steps.monitor.monitor_log import Alarm, MonitorState, Watched, open_monitor_log
from steps.monitor.reference import Reference, close
from steps.monitor.step import MAX_SESSIONS
from steps.monitor.traffic import Prompt, prompts_of_sessions, scalars
from workflows.log import Blobs, Draft, Store, failpoint, list_logs

logger = logging.getLogger(__name__)

MAX_PROMPTS = 200
"""Prompts looked at in one scan, about 4 s of embedding; of more, every n-th is taken."""

_NUM_EXAMPLES = 3
_EXAMPLE_CHARS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What a scan did.

    Attributes:
        alias: The public model name.
        champion: Version watched, or None if nothing is watched yet.
        num_prompts: Prompts looked at.
        readings: Last statistic and threshold of each detector.
        alarms: Alarms confirmed in this scan.
        raised: Keys of signals raised in this scan.
    """

    alias: str
    champion: str | None
    num_prompts: int = 0
    readings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()
    raised: tuple[str, ...] = ()


def watched_aliases(store: Store) -> list[str]:
    """Gives the aliases that have a monitor log."""
    return [name.removeprefix("monitors/") for name in list_logs(store, "monitors/")]


def scan(store: Store, alias: str) -> Scan:
    """Scans once. A process that scans again and again keeps a `Scanner`, which loads model and reference only once."""
    with Scanner(store, alias) as scanner:
        return scanner.scan()


class Scanner:
    """Scans one alias. Any number of processes may: the log lets one of them win, the others drop their work.

    Args:
        store: The storage.
        alias: The public model name.
        embedder: Makes the vectors; one with the reference's settings when not given.
        max_prompts: Prompts looked at in one scan.
    """

    def __init__(
        self, store: Store, alias: str, *, embedder: TextEmbedder | None = None, max_prompts: int = MAX_PROMPTS
    ) -> None:
        self.alias = alias
        self._store = store
        self._log = open_monitor_log(store, alias)
        self._signals = open_signal_log(store, alias)
        self._embedder = embedder
        self._max_prompts = max_prompts
        self._loaded: tuple[str, Reference, tuple[Watch, ...]] | None = None

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what detectors have started."""
        if self._loaded is not None:
            close(self._loaded[2])
            self._loaded = None

    def scan(self) -> Scan:
        """Reads new outcomes, moves the detectors on, raises signals. Repeating it changes nothing."""
        state = self._log.refresh()
        if state.watched is None:
            return Scan(alias=self.alias, champion=None)
        raised = self._deliver(state)
        reader = OutcomeReader(self._store, self.alias, cursors=dict(state.cursors))
        outcomes = [outcome for outcome in reader.read() if outcome.variant != "shadow"]
        if reader.cursors == state.cursors:
            return self._seen(state, (), 0, raised)
        prompts = list(prompts_of_sessions(outcomes, state.sessions))
        taken = prompts[:: -(-len(prompts) // self._max_prompts) or 1]
        watches, readings, alarms = self._look(state, state.watched, taken)
        data = {
            "cursors": reader.cursors,
            "sessions": [*state.sessions, *(prompt.group for prompt in prompts)][-MAX_SESSIONS:],
            "detectors": {watch.detector.name: watch.dump() for watch in watches} if taken else dict(state.detectors),
            "readings": {each.detector: _numbers(each) for each in readings},
            "num_prompts": len(taken),
            "num_skipped": len(prompts) - len(taken),
            "num_raised": _counts(readings),
            "alarms": [asdict(alarm) for alarm in alarms],
        }

        def decide(latest: MonitorState) -> Draft | None:
            # Somebody else scanned these outcomes, or another reference is in force: this work is void.
            return Draft("scanned", data) if latest == state else None

        failpoint("monitor.scan.before-append")
        if self._log.append(decide) is None:
            return Scan(alias=self.alias, champion=state.watched.champion)
        failpoint("monitor.scan.after-append")
        return self._seen(self._log.state, alarms, len(taken), (*raised, *self._deliver(self._log.state)))

    def _seen(self, state: MonitorState, alarms: tuple[Alarm, ...], num_prompts: int, raised: tuple[str, ...]) -> Scan:
        champion = state.watched.champion if state.watched else None
        return Scan(
            alias=self.alias,
            champion=champion,
            num_prompts=num_prompts,
            readings=state.readings,
            alarms=alarms,
            raised=raised,
        )

    def _look(
        self, state: MonitorState, watched: Watched, prompts: Sequence[Prompt]
    ) -> tuple[tuple[Watch, ...], list[Reading], tuple[Alarm, ...]]:
        if not prompts:
            return (), [], ()
        reference, watches = self._load(watched)
        for watch in watches:
            if watch.detector.name in state.detectors:
                watch.load(state.detectors[watch.detector.name])
            else:
                watch.num_restarts = 0
                watch.restart()
        points = self._points(reference, prompts)
        readings: list[Reading] = []
        alarms: list[Alarm] = []
        for index, point in enumerate(points):
            new = [reading for watch in watches if (reading := watch.step(point)) is not None]
            readings += new
            for reading in new:
                if reading.confirmed:
                    recent = slice(max(0, index + 1 - reference.mmd.window), index + 1)
                    examples = _examples(reference, points[recent], prompts[recent])
                    alarms.append(self._alarm(state, reading, len(alarms), index + 1, examples))
            if any(reading.confirmed for reading in new):
                # One shift is one alarm: what the other detector has gathered about it is dropped.
                for watch in watches:
                    watch.restart()
        return watches, readings, tuple(alarms)

    def _alarm(
        self, state: MonitorState, reading: Reading, num_before: int, num_prompts: int, examples: tuple[str, ...]
    ) -> Alarm:
        return Alarm(
            detector=reading.detector,
            statistic=reading.statistic,
            threshold=reading.threshold,
            number=state.num_confirmed + num_before + 1,
            num_prompts=state.num_prompts + num_prompts,
            at=self._store.now(),
            detail=dict(reading.detail),
            examples=examples,
        )

    def _load(self, watched: Watched) -> tuple[Reference, tuple[Watch, ...]]:
        sha256 = watched.reference.sha256
        if self._loaded is None or self._loaded[0] != sha256:
            self.close()
            reference = Reference.from_bytes(Blobs(self._store).get(watched.reference))
            self._loaded = sha256, reference, reference.watches()
        return self._loaded[1], self._loaded[2]

    def _points(self, reference: Reference, prompts: Sequence[Prompt]) -> list[Point]:
        embedder = self._embedder or Embedder(max_tokens=reference.config.max_tokens)
        self._embedder = embedder
        features = reference.projection(embedder.embed([prompt.text for prompt in prompts]))
        values = scalars(prompts, reference.scalars.names)
        return [Point(*pair) for pair in zip(features, values, strict=True)]

    def _deliver(self, state: MonitorState) -> tuple[str, ...]:
        """Raises the signals of alarms without a receipt; one incident that waits or runs is not raised again."""
        if not state.undelivered or state.watched is None:
            return ()
        raised = []
        for alarm in state.undelivered:
            found = _signal(self.alias, state.watched, alarm)
            if _is_known(self._signals.refresh(), found):
                continue
            raise_signal(self._signals, found, now=alarm.at)
            raised.append(found.key)
            failpoint("monitor.deliver.after-raise")
        numbers = [alarm.number for alarm in state.undelivered]

        def decide(latest: MonitorState) -> Draft | None:
            return Draft("delivered", {"numbers": numbers}) if latest.watched == state.watched else None

        self._log.append(decide)
        return tuple(raised)


def _signal(alias: str, watched: Watched, alarm: Alarm) -> Signal:
    window = f"{watched.reference.sha256[:16]}/{alarm.number}"
    return signal(alias, "drift", window=window, champion=watched.champion, evidence=asdict(alarm))


def _is_known(state: SignalState, found: Signal) -> bool:
    return found.incident in state.pending or (
        state.active is not None and state.active.signal.incident == found.incident
    )


def _examples(reference: Reference, points: Sequence[Point], prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The prompts furthest from the reference's mean: what people look at first."""
    centre = reference.mmd.points.mean(0)
    distances = [float(np.linalg.norm(point.features - centre)) for point in points]
    order = sorted(range(len(points)), key=lambda index: -distances[index])
    return tuple(prompts[index].text[:_EXAMPLE_CHARS] for index in order[:_NUM_EXAMPLES])


def _numbers(reading: Reading) -> Mapping[str, float]:
    return {"statistic": reading.statistic, "threshold": reading.threshold}


def _counts(readings: Sequence[Reading]) -> Mapping[str, int]:
    names = [reading.detector for reading in readings if reading.alarm]
    return {name: names.count(name) for name in sorted(set(names))}
