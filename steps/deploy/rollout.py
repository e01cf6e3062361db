"""Releases a model that passed evaluation: the first after a smoke test, later ones by shadow and rising weights.

Takes the trained model, its evaluation and the dataset version; gives a `Release`. The pipeline joins three
functions: `begin` opens the rollout, `look` judges what came in and decides, again and again with a wait in between,
`finish` tells how it ended. All that they know is in the release log, so each may be repeated after a crash: a
rollout is opened once for each token, a look is recorded once for each token, and decisions are refused when they
were taken before or by another runner.

    python -m steps.deploy --storage /tmp/el --inputs model.json --inputs evaluation.json --inputs dataset.json
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from steps.common import releases
from steps.common.context import StepContext
from steps.common.language_model import DamagedModelError, UnsafeModelError, verify_model
from steps.common.outcomes import OutcomeReader
from steps.common.releases import Limits, ReleasedModel, ReleaseState, Rollout, open_release_log
from steps.common.results import DatasetVersion, Evaluation, ModelVersion, Release
from steps.deploy.client import check_endpoint
from steps.deploy.config import DeployConfig
from steps.deploy.converge import converge, follow_now
from steps.deploy.health import challenger_health, smoke_test, wait_ready
from steps.deploy.judging import Tally, pinned
from steps.deploy.model_cache import cached_model
from steps.deploy.naming import application_name
from steps.deploy.replaying import heldout_prompts, send
from steps.deploy.starts import forget_starts
from steps.deploy.verdict import Verdict, decide, next_step
from workflows.log import CorruptBlob, Log, NotFound

logger = logging.getLogger(__name__)

NUM_RECENT_RECORDS = 30
"""Records of each outcome log, newest first, from which the champion's usual times are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRef:
    """A rollout between two looks.

    Attributes:
        alias: The public model name.
        rollout_id: Names it in the release log; None if there is nothing to roll out.
        version: The challenger.
        endpoint: Root URL of the endpoint.
        done: Nothing more to look at.
        wait_s: Time until the next look.
        num_looks: Looks so far.
        message: Where it stands, for people.
        num_replayed: Held-out prompts sent so far.
        cursors: Where the rollout's outcomes begin, by outcome log.
    """

    alias: str
    rollout_id: str | None
    version: str
    endpoint: str
    done: bool
    wait_s: float
    num_looks: int
    message: str
    num_replayed: int
    cursors: dict[str, int]


def run(
    config: DeployConfig, model: ModelVersion, evaluation: Evaluation, dataset: DatasetVersion, ctx: StepContext
) -> Release:
    """The whole rollout in one call, for running the step alone; the pipeline waits between looks without a process."""
    rollout = begin(config, model, evaluation, ctx)
    while not rollout.done:
        time.sleep(rollout.wait_s)
        rollout = look(config, rollout, dataset, ctx)
    return finish(config, rollout, ctx)


def begin(
    config: DeployConfig,
    model: ModelVersion,
    evaluation: Evaluation,
    ctx: StepContext,
    approved_by: tuple[str, ...] = (),
) -> RolloutRef:
    """Opens a rollout, and brings the challenger up; releases the first model after its smoke test.

    Args:
        config: How it is rolled out.
        model: The challenger.
        evaluation: What speaks for it.
        ctx: Of the step.
        approved_by: Who agreed to it, if somebody was asked.

    Raises:
        VersionCondemned: The version was rolled back for cause before.
        RolloutUnderWay: Another run's rollout holds the alias, and its deadline has not passed.
        EndpointNotReadyError: The router or the champion does not come up.
    """
    log = open_release_log(ctx.store, config.alias)
    if evaluation.verdict != "promote" and not config.force:
        endpoint = converge(ctx.store.uri, config.alias)
        reason = f"evaluation says {evaluation.verdict}: {evaluation.reasons[0] if evaluation.reasons else 'no reason'}"
        return _ref(config, model.version, endpoint.url, message=reason, done=True)
    challenger = ReleasedModel(model.version, model.model, dict(model.params), model.dataset, ctx.run_id)
    rollout_id = f"rollout-{ctx.token[:16]}"
    ctx.fence()
    cursors = OutcomeReader(ctx.store, config.alias).skip()
    _open(config, log, rollout_id, challenger, ctx, approved_by)
    _refuse_damaged(log, rollout_id, ctx)
    ctx.fence()
    endpoint = converge(ctx.store.uri, config.alias, on_wait=lambda name: ctx.progress(0, 1, f"waiting for {name}"))
    if log.state.finished(rollout_id) is None:
        _bring_up(config, log, _current(log, rollout_id), ctx)
    message = f"opened with version {model.version}"
    ref = _ref(config, model.version, endpoint.url, rollout_id=rollout_id, message=message, cursors=cursors)
    return _settled(ref, log)


def look(config: DeployConfig, rollout: RolloutRef, dataset: DatasetVersion | None, ctx: StepContext) -> RolloutRef:
    """Looks once at what came in, records the evidence, and acts on it.

    Raises:
        RolloutFenced: Another runner has taken the rollout over.
    """
    log = open_release_log(ctx.store, config.alias)
    log.refresh()
    if rollout.done or rollout.rollout_id is None or log.state.finished(rollout.rollout_id):
        return _settled(rollout, log)
    ctx.fence()
    log.append(releases.claim(rollout.rollout_id, epoch=ctx.epoch))
    endpoint = converge(ctx.store.uri, config.alias)
    current = _current(log, rollout.rollout_id)
    verdict = _judge(config, log, current, rollout, ctx)
    ctx.progress(current.step.index + 1, len(config.weights) + 1, f"{current.stage}: {verdict.reason}")
    ctx.fence()
    _act(config, log, current, verdict, ctx)
    follow_now(ctx.store.uri, config.alias)
    num_replayed = rollout.num_replayed
    if verdict.action in {"wait", "raise"} and config.replay_prompts and dataset is not None:
        num_replayed += _replay(config, rollout, dataset, endpoint.url, ctx)
    following = replace(
        rollout,
        endpoint=endpoint.url,
        num_looks=rollout.num_looks + 1,
        num_replayed=num_replayed,
        message=f"{current.stage} at {current.weight:g}: {verdict.reason}",
    )
    return _settled(following, log)


def finish(config: DeployConfig, rollout: RolloutRef, ctx: StepContext) -> Release:
    """Removes who lost, checks that the endpoint answers, and tells how the rollout ended."""
    ctx.fence()
    endpoint = converge(ctx.store.uri, config.alias)
    log = open_release_log(ctx.store, config.alias)
    state = log.refresh()
    if state.champion is not None:
        check_endpoint(endpoint.url, config.alias, state.champion.version)
    past = state.finished(rollout.rollout_id) if rollout.rollout_id else None
    forget_starts(ctx.store, application_name(ctx.store.uri, config.alias, rollout.version))
    return Release(
        alias=config.alias,
        state=past.outcome if past else "unchanged",
        champion=state.champion.version if state.champion else None,
        challenger=rollout.version if past else None,
        rollout_id=rollout.rollout_id,
        endpoint=endpoint.url,
        reasons=past.reasons if past else (rollout.message,),
        num_requests=dict(past.evidence.requests) if past and past.evidence else {},
        replayed=bool(past and past.replayed),
    )


def _open(
    config: DeployConfig,
    log: Log[ReleaseState],
    rollout_id: str,
    challenger: ReleasedModel,
    ctx: StepContext,
    approved_by: tuple[str, ...],
) -> None:
    state = log.refresh()
    now = ctx.store.now()
    other = state.rollout
    if other is not None and other.id != rollout_id and now >= other.deadline_at:
        logger.warning("rollout %s of run %s is past its deadline and is ended", other.id, other.run_id)
        log.append(releases.abort(other.id, by=f"run {ctx.run_id}: past its deadline", at=now))
    first = config.weights[0]
    stage: releases.Stage = "smoke" if state.champion is None else "shadow" if config.shadow else "canary"
    log.append(
        releases.open_rollout(
            rollout_id=rollout_id,
            challenger=challenger,
            run_id=ctx.run_id,
            epoch=ctx.epoch,
            at=now,
            deadline_at=now + config.timeout_s,
            limits=_limits(config, ctx),
            stage=stage,
            weight=first if stage == "canary" else 0.0,
            serving=config.serving.model_dump(mode="json"),
            approved_by=approved_by,
        )
    )
    if log.state.rollout is not None and log.state.rollout.id == rollout_id:
        log.append(releases.claim(rollout_id, epoch=ctx.epoch))


def _refuse_damaged(log: Log[ReleaseState], rollout_id: str, ctx: StepContext) -> None:
    """Rolls back a model that no replica would load, before any is started; a good one is in the cache now."""
    rollout = log.state.rollout
    if rollout is None or rollout.id != rollout_id:
        return
    try:
        verify_model(cached_model(ctx.store, rollout.challenger.model))
    except (UnsafeModelError, DamagedModelError, CorruptBlob, NotFound) as error:
        reasons = (f"the model cannot be served: {error}",)
        ctx.fence()
        log.append(releases.roll_back(rollout_id, epoch=ctx.epoch, at=ctx.store.now(), reasons=reasons, condemn=True))


def _limits(config: DeployConfig, ctx: StepContext) -> Limits:
    """Pins what counts as slow: the agreed limit, or the champion's 95th percentile if that is longer."""
    reader = OutcomeReader(ctx.store, config.alias)
    recent = [each for each in reader.recent(NUM_RECENT_RECORDS) if each.variant == "champion" and not each.bad]
    usual = pinned(
        {
            "ttft": [each.ttft_s for each in recent if each.ttft_s is not None],
            "tpot": [each.tpot_s for each in recent if each.tpot_s is not None],
        }
    )

    def longer(limit: float | None, seen: float | None) -> float | None:
        return None if limit is None else max(limit, seen or 0.0)

    return Limits(
        ttft_s=longer(config.slow_ttft_s, usual["ttft"]),
        tpot_s=longer(config.slow_tpot_s, usual["tpot"]),
        nats_per_byte=config.max_nats_per_byte,
    )


def _bring_up(config: DeployConfig, log: Log[ReleaseState], rollout: Rollout, ctx: StepContext) -> None:
    """Waits for the challenger; one that cannot be served is rolled back, a first one that answers is promoted."""
    application = application_name(ctx.store.uri, config.alias, rollout.challenger.version)
    problem = wait_ready(application, config.serving.ready_s)
    if problem is None and rollout.stage == "smoke":
        problem = smoke_test(application, config.serving, config.num_smoke_prompts)
    ctx.fence()
    at = ctx.store.now()
    if problem is not None:
        log.append(releases.roll_back(rollout.id, epoch=ctx.epoch, at=at, reasons=(problem,), condemn=True))
    elif rollout.stage == "smoke":
        reasons = (f"first release: gave {config.num_smoke_prompts} answers in the smoke test",)
        log.append(releases.promote(rollout.id, rollout.challenger.version, epoch=ctx.epoch, at=at, reasons=reasons))
    follow_now(ctx.store.uri, config.alias)


def _judge(
    config: DeployConfig, log: Log[ReleaseState], current: Rollout, ref: RolloutRef, ctx: StepContext
) -> Verdict:
    """Reads the outcomes, records what they say, and decides."""
    tally = Tally(current, config.null_ratio)
    tally.take(OutcomeReader(ctx.store, config.alias, dict(ref.cursors)).read())
    now = ctx.store.now()
    application = application_name(ctx.store.uri, config.alias, current.challenger.version)
    since = current.evidence.unready_since if current.evidence else None
    health = challenger_health(ctx.store, application, config.serving.num_replicas, unready_since=since, now=now)
    evidence = tally.evidence(_look_name(ref, ctx), now, config.alpha)
    verdict = decide(
        config, current, evidence, units_in_step=tally.units_at(current.step.index), health=health, now=now
    )
    evidence = replace(
        evidence,
        decision=verdict.action,
        reason=verdict.reason,
        unready_since=None if health.ready else now - health.unready_s,
    )
    ctx.fence()
    log.append(releases.record_evidence(current.id, evidence, epoch=ctx.epoch, replayed=ref.num_replayed))
    return verdict


def _act(config: DeployConfig, log: Log[ReleaseState], current: Rollout, verdict: Verdict, ctx: StepContext) -> None:
    at, epoch, reasons = ctx.store.now(), ctx.epoch, (verdict.reason,)
    if verdict.action == "raise":
        following = next_step(config, current)
        if following is not None:
            stage, weight = following
            step = current.step.index + 1
            log.append(releases.set_weight(current.id, epoch=epoch, step=step, stage=stage, weight=weight, at=at))
    elif verdict.action == "promote":
        log.append(releases.promote(current.id, current.challenger.version, epoch=epoch, at=at, reasons=reasons))
    elif verdict.action == "roll_back":
        log.append(releases.roll_back(current.id, epoch=epoch, at=at, reasons=reasons, condemn=verdict.condemn))
    elif verdict.action == "hold":
        log.append(releases.hold(current.id, epoch=epoch, at=at, reasons=reasons))


def _replay(config: DeployConfig, rollout: RolloutRef, dataset: DatasetVersion, url: str, ctx: StepContext) -> int:
    """Sends held-out prompts as new sessions; the next look sees what became of them."""
    session = f"{rollout.rollout_id}-{rollout.num_looks}"
    prompts = heldout_prompts(dataset, ctx.blobs, rollout.num_looks * config.replay_prompts, config.replay_prompts)
    return send(url, config.alias, prompts, session=session, max_tokens=config.replay_max_tokens)


def _look_name(ref: RolloutRef, ctx: StepContext) -> str:
    return f"{ref.num_looks}-{ctx.token[:12]}"


def _current(log: Log[ReleaseState], rollout_id: str) -> Rollout:
    rollout = log.refresh().rollout
    if rollout is None or rollout.id != rollout_id:
        raise releases.NoSuchRollout(rollout_id, rollout.id if rollout else None)
    return rollout


def _settled(ref: RolloutRef, log: Log[ReleaseState]) -> RolloutRef:
    past = log.refresh().finished(ref.rollout_id) if ref.rollout_id else None
    if past is None:
        return ref
    return replace(ref, done=True, wait_s=0.0, message=f"{past.outcome}: {past.reasons[0] if past.reasons else ''}")


def _ref(
    config: DeployConfig,
    version: str,
    endpoint: str,
    *,
    message: str,
    rollout_id: str | None = None,
    done: bool = False,
    cursors: dict[str, int] | None = None,
) -> RolloutRef:
    return RolloutRef(
        alias=config.alias,
        rollout_id=rollout_id,
        version=version,
        endpoint=endpoint,
        done=done,
        wait_s=0.0 if done else config.look_every_s,
        num_looks=0,
        message=message,
        num_replayed=0,
        cursors=cursors or {},
    )
