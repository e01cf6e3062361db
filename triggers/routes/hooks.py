"""`/v1/hooks`: what other programs report. A hook reports a cause; whether a run follows is decided by the
admission."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from triggers.auth import Access, Caller
from triggers.bodies import NoticeOut, SignalOut, SignalsOut
from triggers.loop_api import LoopApi
from triggers.problems import PROBLEMS
from triggers.routes.runs import IdempotencyKey, resource_of
from workflows.access import Principal, resources

router = APIRouter(prefix="/v1/hooks", tags=["hooks"], responses=PROBLEMS)

_MAX_SIGNALS = 1_000


class _Foreign(BaseModel):
    """Other programs add fields with every version; unknown ones are no error."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Alert(_Foreign):
    """One alert of Alertmanager."""

    status: Literal["firing", "resolved"] = Field(examples=["firing"])
    labels: dict[str, str] = Field(
        max_length=100, examples=[{"alertname": "Drift", "alias": "tiny", "signal": "drift"}]
    )
    annotations: dict[str, str] = Field(default_factory=dict, max_length=100, examples=[{"summary": "inputs drifted"}])
    startsAt: str = Field(max_length=64, examples=["2026-11-24T04:15:30Z"])  # noqa: N815 - the name in the format
    fingerprint: str = Field(min_length=1, max_length=64, examples=["0d7e3a6f1c2b4a59"])


class AlertsBody(_Foreign):
    """A delivery of Alertmanager, version 4
    (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config)."""

    version: Literal["4"] = Field(examples=["4"])
    alerts: list[Alert] = Field(max_length=_MAX_SIGNALS)


@router.post("/alertmanager")
def alertmanager(request: Request, caller: Caller, body: AlertsBody) -> SignalsOut:
    """Each firing alert with a label `alias` is a signal, once per fingerprint and start."""
    outcomes = [
        _signal(
            request,
            caller,
            alert.labels["alias"],
            alert.labels.get("signal", "alert"),
            window=f"{alert.fingerprint}@{alert.startsAt}",
            # Drift told by Prometheus is the same trouble as drift found by the scan: one class, one incident.
            reason=alert.labels.get("alertname", "") if alert.labels.get("signal", "alert") == "alert" else "",
            evidence={"labels": alert.labels, "annotations": alert.annotations},
        )
        for alert in body.alerts
        if alert.status == "firing" and alert.labels.get("alias")
    ]
    return SignalsOut(signals=outcomes)


class _S3Bucket(_Foreign):
    name: str = Field(max_length=255)


class _S3Object(_Foreign):
    key: str = Field(max_length=2048)
    eTag: str = Field("", max_length=255)  # noqa: N815 - the name in the format
    sequencer: str = Field("", max_length=255)


class _S3Entity(_Foreign):
    bucket: _S3Bucket
    object: _S3Object


class BucketRecord(_Foreign):
    """One event of a bucket."""

    eventName: str = Field(max_length=255)  # noqa: N815 - the name in the format
    s3: _S3Entity


class BucketBody(_Foreign):
    """A bucket notification of MinIO or S3."""

    Records: list[BucketRecord] = Field(max_length=_MAX_SIGNALS)


@router.post("/minio")
def minio(request: Request, caller: Caller, body: BucketBody, alias: str) -> SignalsOut:
    """Each created object is a signal of new data for the alias in the query, once per object version."""
    outcomes = [
        _signal(
            request,
            caller,
            alias,
            "data",
            window=f"{record.s3.bucket.name}/{record.s3.object.key}@{record.s3.object.eTag}{record.s3.object.sequencer}",
            reason="new objects in a bucket",
            evidence={"bucket": record.s3.bucket.name, "key": record.s3.object.key},
        )
        for record in body.Records
        if "ObjectCreated" in record.eventName
    ]
    return SignalsOut(signals=outcomes)


class PushBody(_Foreign):
    """A push to a branch, told by continuous integration after its tests passed."""

    alias: str = Field(min_length=1, max_length=64, examples=["tiny"])
    ref: str = Field(max_length=255, examples=["refs/heads/main"])
    commit: str = Field(pattern=r"^[0-9a-f]{40,64}$", examples=["d1230a4" + "0" * 33])
    image_digest: str = Field("", pattern=r"^(sha256:[0-9a-f]{64})?$", examples=["sha256:" + "0" * 64])


@router.post("/push")
def push(request: Request, caller: Caller, body: PushBody) -> SignalOut:
    """A push to the main branch is a signal, once per commit."""
    if body.ref not in ("refs/heads/main", "refs/heads/master"):
        return SignalOut(outcome="suppressed", reason="not the main branch")
    return _signal(
        request,
        caller,
        body.alias,
        "push",
        window=body.commit,
        reason="the main branch moved",
        evidence={"commit": body.commit, "image_digest": body.image_digest},
    )


class NoticeBody(BaseModel):
    """Something that people should be told, and that the loop does not know by itself: a missed schedule, a flow that
    failed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    event: str = Field(max_length=100, pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+){0,4}$", examples=["schedule.missed"])
    severity: Literal["info", "warning", "critical"] = Field(examples=["warning"])
    title: str = Field(min_length=1, max_length=300, examples=["the nightly run did not start"])
    text: str = Field(min_length=1, max_length=5000, examples=["The task was queued for 30 minutes."])
    run_id: str = Field("", max_length=128, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$", examples=[""])
    alias: str = Field("", max_length=64, pattern=r"^([a-z0-9]+([.-][a-z0-9]+)*)?$", examples=["tiny"])
    facts: dict[str, Any] = Field(default_factory=dict, max_length=100, examples=[{"dag_id": "everloop_loop"}])


@router.post("/notify", status_code=202)
def notify(request: Request, caller: Caller, body: NoticeBody, key: IdempotencyKey = None) -> NoticeOut:
    """Puts a notice into the outbox: told once per idempotency key, or per `webhook-id` of a signed request. Whoever
    may start a run may tell of it.
    """
    api: LoopApi = request.app.state.api
    access: Access = request.app.state.access
    if body.run_id:
        about = resource_of(body.run_id, api.facts(body.run_id))
    else:
        facts = api.alias_facts(body.alias) if body.alias else None
        if body.alias and facts is None:
            raise HTTPException(404, "nothing is known of this alias")
        about = resources.run("none", team=facts.team if facts else caller.team, authors=(), alias=body.alias)
    access.authorizer.check(caller, "start_run", about)
    key = key or request.headers.get("webhook-id", "")[:100] or secrets.token_hex(16)
    is_new = api.notify(body.model_dump(), key=f"{caller.subject}:{key}"[:200])
    return NoticeOut(outcome="told" if is_new else "known")


def _signal(
    request: Request, caller: Principal, alias: str, source: str, *, window: str, reason: str, evidence: dict[str, Any]
) -> SignalOut:
    api: LoopApi = request.app.state.api
    access: Access = request.app.state.access
    facts = api.alias_facts(alias)
    if facts is None:
        raise HTTPException(404, "nothing is known of this alias")
    if caller.kind == "CI":
        # Continuous integration has one right: to fork what it has changed.
        run = resources.run("new", team=facts.team, authors=(), recipe=facts.recipe, alias=alias)
        access.authorizer.check(caller, "fork_run", run)
    else:
        access.authorizer.check(caller, "signal", resources.release(alias, team=facts.team, protected=facts.protected))
    found = api.signal(alias, source, window=window, reason=reason, evidence={**evidence, "by": caller.subject})
    return SignalOut(outcome=found.outcome, run_id=found.run_id, reason=found.reason)
