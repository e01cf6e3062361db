"""What people are told of a rollout: that it began, and how it ended, with the evidence that decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steps.common.release_state import Evidence, ReleaseState, Rollout
from workflows.log import Draft, Notification, Severity


@dataclass(frozen=True, slots=True)
class ReleaseTeller:
    """Says what a record of a release log means to people.

    Attributes:
        alias: The public model name.
    """

    alias: str

    def __call__(self, state: ReleaseState, draft: Draft) -> Sequence[Notification]:
        if draft.kind == "rollout-opened":
            return (self._started(state, draft.data),)
        ended = _ENDED.get(draft.kind)
        if ended is None or state.rollout is None:
            return ()
        return (ended(self, state, state.rollout, draft.data),)

    def _started(self, state: ReleaseState, data: Mapping[str, Any]) -> Notification:
        challenger = data["challenger"]
        version, champion = challenger["version"], _champion(state)
        beside = f"beside version {champion}" if champion else "as the first of its name"
        text = (
            f"Version {version}, trained on {challenger['dataset']}, is brought up {beside}, "
            f"stage {data['stage']}, weight {data['weight']:.0%}. It is decided by itself from the answers to come."
        )
        facts = {
            "rollout": data["rollout"],
            "challenger": version,
            "champion": champion,
            "dataset": challenger["dataset"],
            "stage": data["stage"],
            "weight": data["weight"],
            "deadline_at": data["deadline_at"],
        }
        title = f"Rollout of {self.alias} version {version} started"
        return self._note("canary.started", "info", title, text, data["run_id"], facts)

    def _promoted(self, state: ReleaseState, rollout: Rollout, data: Mapping[str, Any]) -> Notification:
        before = _champion(state)
        instead = f" instead of version {before}" if before else ""
        agreed = f" {', '.join(rollout.approved_by)} approved it." if rollout.approved_by else ""
        text = f"It answers all requests{instead} from now on.{agreed} {self._why(rollout, data)}"
        title = f"{self.alias} version {rollout.challenger.version} promoted"
        return self._ended("canary.promoted", "info", title, text, state, rollout, data)

    def _rolled_back(self, state: ReleaseState, rollout: Rollout, data: Mapping[str, Any]) -> Notification:
        condemned = " The version is condemned and will not be tried again." if data["condemn"] else ""
        text = f"{self._stays(state)}{condemned} {self._why(rollout, data)}"
        title = f"{self.alias} version {rollout.challenger.version} rolled back at {rollout.weight:.0%}"
        return self._ended("canary.rolled_back", "warning", title, text, state, rollout, data)

    def _held(self, state: ReleaseState, rollout: Rollout, data: Mapping[str, Any]) -> Notification:
        text = (
            f"No verdict was reached. {self._stays(state)} The version may be tried again. {self._why(rollout, data)}"
        )
        title = f"{self.alias} version {rollout.challenger.version} held"
        return self._ended("canary.held", "warning", title, text, state, rollout, data)

    def _stays(self, state: ReleaseState) -> str:
        champion = _champion(state)
        return f"Version {champion} goes on answering." if champion else "Nobody answers for this name."

    def _why(self, rollout: Rollout, data: Mapping[str, Any]) -> str:
        sentences = [str(reason).rstrip(".") + "." for reason in data["reasons"]]
        if rollout.evidence is not None:
            sentences.append(_evidence(rollout.evidence, rollout.num_looks))
        return " ".join(sentences)

    def _ended(
        self,
        event: str,
        severity: Severity,
        title: str,
        text: str,
        state: ReleaseState,
        rollout: Rollout,
        data: Mapping[str, Any],
    ) -> Notification:
        facts: dict[str, Any] = {
            "rollout": rollout.id,
            "challenger": rollout.challenger.version,
            "champion": _champion(state),
            "dataset": rollout.challenger.dataset,
            "weight": rollout.weight,
            "reasons": list(data["reasons"]),
            "looks": rollout.num_looks,
            "seconds": data["at"] - rollout.opened_at,
        }
        if rollout.evidence is not None:
            facts["e_value"] = _finite(rollout.evidence.e_value)
            facts["requests"] = dict(rollout.evidence.requests)
            facts["upper_bound"] = _finite(rollout.evidence.upper_bound)
        return self._note(event, severity, title, text, rollout.run_id, facts)

    def _note(
        self, event: str, severity: Severity, title: str, text: str, run_id: str, facts: Mapping[str, Any]
    ) -> Notification:
        return Notification(
            event=event, severity=severity, title=title, text=text.strip(), run_id=run_id, alias=self.alias, facts=facts
        )


_End = Callable[[ReleaseTeller, ReleaseState, Rollout, Mapping[str, Any]], Notification]
_ENDED: Mapping[str, _End] = {
    "promoted": ReleaseTeller._promoted,
    "rolled-back": ReleaseTeller._rolled_back,
    "held": ReleaseTeller._held,
}


def _champion(state: ReleaseState) -> str | None:
    return state.champion.version if state.champion else None


def _evidence(evidence: Evidence, num_looks: int) -> str:
    """The numbers of the last look. An e-value of x is odds of x to 1 against "the challenger is no worse"."""
    requests = ", ".join(f"{count:,} {variant}" for variant, count in sorted(evidence.requests.items()))
    odds = f"odds {evidence.e_value:.3g} to 1 that it is worse"
    return f"After {num_looks} looks at {requests} requests: {odds}, at most {evidence.upper_bound:.1%} failures."


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
