"""The state of the release log, and the fold that makes it. The decisions are in `steps.common.releases`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from workflows.log import Record, TreeRef

Stage = Literal["smoke", "shadow", "canary"]
Outcome = Literal["promoted", "rolled_back", "held"]

MAX_HISTORY = 100
"""Finished rollouts kept in the state; older ones are in the log."""


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """A model version that serving knows.

    Attributes:
        version: Version in the registry, as text.
        model: Folder with `config.json`, safetensors and tokenizer files.
        params: Hyperparameters it was trained with.
        dataset: Dataset version it was trained on, as `name@vN`.
        run_id: The run that made it.
    """

    version: str
    model: TreeRef
    params: Mapping[str, float]
    dataset: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What counts as slow or implausible, pinned when the rollout opened so that both variants are judged alike.

    Attributes:
        ttft_s: Longest time to the first token that is not slow, seconds; None: never slow.
        tpot_s: Longest mean time per further token that is not slow, seconds; None: never slow.
        nats_per_byte: Least likely answer under the champion that is not implausible; None: answers are not scored.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    nats_per_byte: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one look at the outcomes saw.

    Attributes:
        look: Names the look; a look that is repeated after a crash has the same name.
        at: When, Unix seconds by the store's clock.
        step: Step of the rollout that was in force.
        requests: Judged requests by variant.
        units: Independent units (session and step) by variant.
        bad: Bad units by metric, then by variant.
        e_values: E-value by metric; roll back when their mean reaches 1/alpha.
        e_value: Their mean.
        upper_bound: Anytime-valid upper bound of the challenger's rate of failed units.
        unready_since: Since when the challenger does not answer, Unix seconds; None if it does.
        decision: What was decided after the look.
        reason: Why, one sentence.
    """

    look: str
    at: float
    step: int
    requests: Mapping[str, int]
    units: Mapping[str, int]
    bad: Mapping[str, Mapping[str, int]]
    e_values: Mapping[str, float]
    e_value: float
    upper_bound: float
    unready_since: float | None = None
    decision: str = "wait"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep:
    """A stretch of a rollout with one weight: step 0, 1, ..."""

    index: int
    stage: Stage
    weight: float
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The rollout under way.

    Attributes:
        id: Names it; sessions are split by a hash over it.
        challenger: The model version on trial.
        run_id: The run that owns it.
        epoch: The claim of that run under which it was last written.
        opened_at: Unix seconds by the store's clock.
        deadline_at: When the timeout policy decides; after it another run may abandon the rollout.
        limits: What counts as slow.
        steps: Steps so far; the last one is in force.
        num_looks: Looks recorded.
        evidence: The last look.
        replayed: Held-out prompts sent as canary traffic so far.
        approved_by: Who agreed that the challenger meets clients; empty if nobody was asked.
    """

    id: str
    challenger: ReleasedModel
    run_id: str
    epoch: int
    opened_at: float
    deadline_at: float
    limits: Limits
    steps: tuple[RolloutStep, ...]
    num_looks: int = 0
    evidence: Evidence | None = None
    replayed: int = 0
    approved_by: tuple[str, ...] = ()

    @property
    def step(self) -> RolloutStep:
        return self.steps[-1]

    @property
    def stage(self) -> Stage:
        return self.step.stage

    @property
    def weight(self) -> float:
        """Share of the sessions that the challenger answers."""
        return self.step.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRollout:
    """How a rollout ended."""

    id: str
    version: str
    run_id: str
    outcome: Outcome
    reasons: tuple[str, ...]
    opened_at: float
    ended_at: float
    num_looks: int
    evidence: Evidence | None
    replayed: int
    approved_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Condemned:
    """A version that must not be served again, and why."""

    version: str
    digest: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseState:
    """The desired state of serving for one alias.

    Attributes:
        champion: The version that answers, or None before the first release.
        champion_since: When it was promoted, Unix seconds.
        previous: The champion before it, to go back to by hand.
        rollout: The rollout under way, or None.
        history: Finished rollouts, oldest first.
        condemned: Versions that are not revived, by version.
        serving: Settings of the engine and the router, as the last opened rollout set them.
    """

    champion: ReleasedModel | None = None
    champion_since: float = 0.0
    previous: ReleasedModel | None = None
    rollout: Rollout | None = None
    history: tuple[FinishedRollout, ...] = ()
    condemned: Mapping[str, Condemned] = field(default_factory=dict)
    serving: Mapping[str, Any] = field(default_factory=dict)

    @property
    def challenger(self) -> ReleasedModel | None:
        return self.rollout.challenger if self.rollout else None

    def finished(self, rollout_id: str) -> FinishedRollout | None:
        """Gives how a rollout ended, or None."""
        return next((past for past in reversed(self.history) if past.id == rollout_id), None)

    def wanted(self) -> tuple[ReleasedModel, ...]:
        """Gives the versions that must be up, the champion first."""
        wanted = {model.version: model for model in (self.champion, self.challenger) if model is not None}
        return tuple(wanted.values())


class ReleaseFold:
    """Folds the records of a release log into `ReleaseState`."""

    def initial(self) -> ReleaseState:
        return ReleaseState()

    def apply(self, state: ReleaseState, record: Record) -> ReleaseState:
        data = record.data
        if record.kind == "rollout-opened":
            return replace(state, rollout=_opened(data, record.epoch), serving=data["serving"])
        rollout = state.rollout
        if rollout is None or data.get("rollout") != rollout.id:
            return state
        rollout = replace(rollout, epoch=max(rollout.epoch, record.epoch))
        if record.kind in ENDINGS:
            return _ended(state, rollout, ENDINGS[record.kind], data)
        return replace(state, rollout=_continued(rollout, record.kind, data))

    def dump(self, state: ReleaseState) -> Any:
        return asdict(state)

    def load(self, data: Any) -> ReleaseState:
        return ReleaseState(
            champion=_model(data["champion"]),
            champion_since=data["champion_since"],
            previous=_model(data["previous"]),
            rollout=_rollout(data["rollout"]),
            history=tuple(_finished(past) for past in data["history"]),
            condemned={version: Condemned(**past) for version, past in data["condemned"].items()},
            serving=data["serving"],
        )


ENDINGS: Mapping[str, Outcome] = {"promoted": "promoted", "rolled-back": "rolled_back", "held": "held"}
"""Kinds of records that end a rollout."""


def _opened(data: Mapping[str, Any], epoch: int) -> Rollout:
    model = _model(data["challenger"])
    if model is None:
        raise ValueError(f"rollout {data['rollout']!r} has no challenger")
    return Rollout(
        id=data["rollout"],
        challenger=model,
        run_id=data["run_id"],
        epoch=epoch,
        opened_at=data["at"],
        deadline_at=data["deadline_at"],
        limits=Limits(**data["limits"]),
        steps=(RolloutStep(index=0, stage=data["stage"], weight=data["weight"], started_at=data["at"]),),
        approved_by=tuple(data.get("approved_by", ())),
    )


def _continued(rollout: Rollout, kind: str, data: Mapping[str, Any]) -> Rollout:
    if kind == "weight-set":
        step = RolloutStep(index=data["step"], stage=data["stage"], weight=data["weight"], started_at=data["at"])
        return replace(rollout, steps=(*rollout.steps, step))
    if kind == "looked":
        num_looks, replayed = rollout.num_looks + 1, data["replayed"]
        return replace(rollout, evidence=_evidence(data["evidence"]), num_looks=num_looks, replayed=replayed)
    return rollout


def _ended(state: ReleaseState, rollout: Rollout, outcome: Outcome, data: Mapping[str, Any]) -> ReleaseState:
    past = FinishedRollout(
        id=rollout.id,
        version=rollout.challenger.version,
        run_id=rollout.run_id,
        outcome=outcome,
        reasons=tuple(data["reasons"]),
        opened_at=rollout.opened_at,
        ended_at=data["at"],
        num_looks=rollout.num_looks,
        evidence=rollout.evidence,
        replayed=rollout.replayed,
        approved_by=rollout.approved_by,
    )
    state = replace(state, rollout=None, history=(*state.history, past)[-MAX_HISTORY:])
    if outcome == "promoted":
        return replace(state, champion=rollout.challenger, champion_since=data["at"], previous=state.champion)
    if data.get("condemn"):
        model = rollout.challenger
        reason = past.reasons[0] if past.reasons else "rolled back"
        condemned = Condemned(version=model.version, digest=model.model.sha256, reason=reason, at=data["at"])
        return replace(state, condemned={**state.condemned, model.version: condemned})
    return state


def _model(data: Mapping[str, Any] | None) -> ReleasedModel | None:
    return None if data is None else ReleasedModel(**{**data, "model": TreeRef(**data["model"])})


def _evidence(data: Mapping[str, Any] | None) -> Evidence | None:
    return None if data is None else Evidence(**data)


def _rollout(data: Mapping[str, Any] | None) -> Rollout | None:
    if data is None:
        return None
    model = _model(data["challenger"])
    if model is None:
        raise ValueError(f"rollout {data['id']!r} has no challenger")
    nested = {
        "challenger": model,
        "limits": Limits(**data["limits"]),
        "steps": tuple(RolloutStep(**step) for step in data["steps"]),
        "evidence": _evidence(data["evidence"]),
        "approved_by": tuple(data.get("approved_by", ())),
    }
    return Rollout(**{**data, **nested})


def _finished(data: Mapping[str, Any]) -> FinishedRollout:
    nested = {
        "reasons": tuple(data["reasons"]),
        "evidence": _evidence(data["evidence"]),
        "approved_by": tuple(data.get("approved_by", ())),
    }
    return FinishedRollout(**{**data, **nested})
