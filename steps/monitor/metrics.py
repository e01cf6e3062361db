"""What `/metrics` of the reconciler shows of drift and retraining, folded from the logs at each look.

Values come from the logs, not from this process, so a restart changes none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steps.common.signals import SignalState
from steps.monitor.monitor_log import MonitorState

STAGES = ("idle", "confirmed", "collecting", "training", "evaluating", "shadow", "canary", "cooldown")


class DriftCollector(Collector):
    """Shows the aliases that `follow` was told about; register it with a `CollectorRegistry`."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[MonitorState, SignalState, float]] = {}

    def follow(self, alias: str, monitor: MonitorState, signals: SignalState, now: float) -> None:
        """Takes the states of an alias as of a time, Unix seconds."""
        self._seen[alias] = monitor, signals, now

    def collect(self) -> Iterator[Metric]:
        seen = tuple(self._seen.items())
        yield from _drift([(alias, monitor) for alias, (monitor, _, _) in seen])
        yield from _retraining([(alias, signals, now) for alias, (_, signals, now) in seen])


def _drift(states: Iterable[tuple[str, MonitorState]]) -> Iterator[Metric]:
    statistic = _gauge("drift_statistic", "Last drift statistic", ("alias", "detector"))
    threshold = _gauge("drift_threshold", "What the drift statistic must exceed for an alarm", ("alias", "detector"))
    promised = _gauge("drift_run_length_sessions", "Sessions between false alarms", ("alias", "kind"))
    prompts = _counter("drift_prompts", "Prompts looked at since the reference came into force", ("alias",))
    alarms = _counter(
        "drift_alarms", "Alarms since the reference came into force, confirmed or not", ("alias", "detector")
    )
    confirmed = _counter("drift_alarms_confirmed", "Alarms that the next window confirmed", ("alias",))
    for alias, state in states:
        for detector, reading in state.readings.items():
            statistic.add_metric((alias, detector), reading["statistic"])
            threshold.add_metric((alias, detector), reading["threshold"])
            alarms.add_metric((alias, detector), state.num_raised.get(detector, 0))
        if state.watched is not None:
            promised.add_metric((alias, "promised"), state.watched.run_length)
            promised.add_metric((alias, "measured"), state.watched.measured_run_length)
        prompts.add_metric((alias,), state.num_prompts)
        confirmed.add_metric((alias,), state.num_confirmed)
    yield from (statistic, threshold, promised, prompts, alarms, confirmed)


def _retraining(states: Iterable[tuple[str, SignalState, float]]) -> Iterator[Metric]:
    suppressed = _counter("retrain_suppressed", "Signals that got no run, by reason", ("alias", "reason"))
    runs = _counter("retrain_runs", "Runs ended, by cause and outcome", ("alias", "source", "outcome"))
    pending = _gauge("signals_pending", "Causes that wait for a run", ("alias",))
    stage = _gauge("retrain_stage", "1 for the stage that retraining is in", ("alias", "stage"))
    for alias, state, now in states:
        for reason, count in state.num_suppressed.items():
            suppressed.add_metric((alias, reason), count)
        for name, count in state.num_finished.items():
            source, _, outcome = name.partition("/")
            runs.add_metric((alias, source, outcome), count)
        pending.add_metric((alias,), len(state.pending))
        current = state.stage(now)
        for name in STAGES:
            stage.add_metric((alias, name), float(name == current))
    yield from (suppressed, runs, pending, stage)


def _gauge(name: str, text: str, labels: tuple[str, ...]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"everloop_{name}", text, labels=labels)


def _counter(name: str, text: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(f"everloop_{name}", text, labels=labels)
