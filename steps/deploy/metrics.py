"""What `/metrics` of the endpoint shows, on a registry of its own.

Labels are the alias, the variant and the model version; nothing that a client sends becomes a label. Series of
versions that are not served any more are removed, so a long life does not grow the page.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from steps.common.outcomes import Outcome
from steps.common.releases import ReleaseState

TTFT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TPOT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ROLLOUT_STATES = ("none", "smoke", "shadow", "canary")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RouterMetrics:
    """Counters, histograms and gauges of one router process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        by_model = ("alias", "variant", "version")
        self.requests = self._counter("requests", "Answers, by outcome", (*by_model, "outcome"))
        self.refused = self._counter(
            "requests_refused", "Requests refused before a model saw them", ("alias", "reason")
        )
        self.fallbacks = self._counter("fallbacks", "Challenger failures that the champion answered", ("alias",))
        self.tokens = self._counter("tokens", "Tokens, by kind: prompt, answer", (*by_model, "kind"))
        self.bad = self._counter("bad_answers", "Answers that count as bad, by metric", (*by_model, "metric"))
        self.shadow_dropped = self._counter("shadow_dropped", "Shadow requests dropped: the queue was full", ("alias",))
        self.unscored = self._counter("unscored", "Answers not scored: the queue was full", ("alias",))
        self.ttft = self._histogram("ttft_seconds", "Time to the first token", by_model, TTFT_BUCKETS_S)
        self.tpot = self._histogram("tpot_seconds", "Mean time per further token", by_model, TPOT_BUCKETS_S)
        self.in_flight = self._gauge("requests_in_flight", "Requests in the router now", ())
        self.outcomes_lost = self._gauge("outcomes_lost", "Outcomes lost: the storage was away too long", ("alias",))
        self.log_age = self._gauge("release_log_age_seconds", "Time since the release logs were last read", ())
        self.weight = self._gauge("canary_weight", "Share of sessions that the challenger answers", ("alias",))
        self.evidence = self._gauge("canary_evidence", "E-value against the challenger", ("alias", "metric"))
        self.bound = self._gauge(
            "canary_failed_upper_bound", "Upper bound of the challenger's failed units", ("alias",)
        )
        self.units = self._gauge("canary_units", "Units judged in the rollout", ("alias", "variant"))
        self.rollout = self._gauge("rollout_state", "1 for the state that the rollout is in", ("alias", "state"))
        self.model = self._gauge("model_info", "1 for each model version that serves", by_model)
        self._served: dict[str, set[tuple[str, str, str]]] = {}

    def observe(self, alias: str, outcome: Outcome) -> None:
        """Counts an answer."""
        labels = (alias, outcome.variant, outcome.version)
        result = outcome.finish_reason if outcome.finish_reason in {"error", "abort"} else "ok"
        self.requests.labels(*labels, result).inc()
        self.tokens.labels(*labels, "prompt").inc(outcome.num_prompt_tokens)
        self.tokens.labels(*labels, "answer").inc(outcome.num_tokens)
        for metric in outcome.bad:
            self.bad.labels(*labels, metric).inc()
        if outcome.fell_back:
            self.fallbacks.labels(alias).inc()
        if outcome.ttft_s is not None:
            self.ttft.labels(*labels).observe(outcome.ttft_s)
        if outcome.tpot_s is not None:
            self.tpot.labels(*labels).observe(outcome.tpot_s)

    def follow(self, alias: str, state: ReleaseState) -> None:
        """Shows where the release stands."""
        rollout = state.rollout
        self.weight.labels(alias).set(rollout.weight if rollout and rollout.stage == "canary" else 0.0)
        for name in ROLLOUT_STATES:
            self.rollout.labels(alias, name).set(float(name == (rollout.stage if rollout else "none")))
        evidence = rollout.evidence if rollout else None
        self.evidence.labels(alias, "all").set(evidence.e_value if evidence else 1.0)
        for metric, value in (evidence.e_values if evidence else {}).items():
            self.evidence.labels(alias, metric).set(value)
        self.bound.labels(alias).set(evidence.upper_bound if evidence else 1.0)
        for variant in ("champion", "challenger"):
            self.units.labels(alias, variant).set(evidence.units.get(variant, 0) if evidence else 0)
        self._follow_models(alias, state)

    def _follow_models(self, alias: str, state: ReleaseState) -> None:
        served = {(alias, "champion", state.champion.version)} if state.champion else set()
        if state.challenger:
            served |= {(alias, variant, state.challenger.version) for variant in ("canary", "shadow")}
        for gone in self._served.get(alias, set()) - served:
            self._forget(gone)
        for labels in served:
            self.model.labels(*labels).set(1.0)
        self._served[alias] = served

    def _forget(self, labels: tuple[str, str, str]) -> None:
        version = {"alias": labels[0], "variant": labels[1], "version": labels[2]}
        for metric in (self.requests, self.tokens, self.bad, self.ttft, self.tpot, self.model):
            metric.remove_by_labels(version)

    def page(self) -> bytes:
        """Gives the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: Iterable[str]) -> Counter:
        return Counter(f"everloop_{name}", text, tuple(labels), registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str]) -> Gauge:
        return Gauge(f"everloop_{name}", text, tuple(labels), registry=self.registry)

    def _histogram(self, name: str, text: str, labels: Iterable[str], buckets: Iterable[float]) -> Histogram:
        return Histogram(f"everloop_{name}", text, tuple(labels), buckets=tuple(buckets), registry=self.registry)
