"""What goes in and out, with examples for the API's description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from workflows.access import ApprovalState
from workflows.engine import RunSummary, RunView
from workflows.outbox import Event

EXAMPLE_RUN = "20261124-041530-a1b2c3"


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StartBody(_In):
    """Which run to start."""

    recipe: str = Field(description="Name of a recipe.", max_length=64, examples=["nano"])
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Single fields of the recipe's config, by dotted name.",
        max_length=100,
        examples=[{"train.max_steps": 20}],
    )
    reason: str = Field("", description="For people.", max_length=1000, examples=["new pages were published"])


class ForkBody(_In):
    """Where to fork a run."""

    from_step: str = Field(
        description="The first step that is done anew.", min_length=1, max_length=200, examples=["train"]
    )
    overrides: dict[str, Any] = Field(default_factory=dict, description="As when starting a run.", max_length=100)
    reason: str = Field("", description="For people.", max_length=1000)


class ReasonBody(_In):
    """Why something is done."""

    reason: str = Field("", description="For people.", max_length=1000, examples=["wrong dataset"])


class DecisionBody(_In):
    """A decision at a gate."""

    decision: Literal["approve", "reject"] = Field(description="The decision. It is final.", examples=["approve"])
    reason: str = Field("", description="For people.", max_length=1000, examples=["the samples look well"])


class StartedOut(BaseModel):
    """What became of a request to start."""

    run_id: str = Field(examples=[EXAMPLE_RUN])
    outcome: Literal["started", "merged"] = Field(
        description="A run of its own, or one that was under way.", examples=["started"]
    )


class SignalOut(BaseModel):
    """What became of a signal."""

    outcome: Literal["started", "merged", "suppressed", "collected"] = Field(examples=["started"])
    run_id: str = Field("", examples=[EXAMPLE_RUN])
    reason: str = Field("", examples=[""])


class SignalsOut(BaseModel):
    """What became of the signals of one delivery, in its order."""

    signals: list[SignalOut]


class NoticeOut(BaseModel):
    """What became of a notice."""

    outcome: Literal["told", "known"] = Field(description="Put into the outbox, or there already.", examples=["told"])


class DeliveryOut(BaseModel):
    """An event on its way to one receiver."""

    receiver: str = Field(examples=["n8n"])
    status: str = Field(description="`pending`, `delivered`, `dead` or `moot`.", examples=["delivered"])
    attempts: int = Field(examples=[1])
    due_at: float = Field(description="When it is tried next, Unix seconds.", examples=[1764000060.0])
    http_status: int | None = Field(description="The last answer.", examples=[200])
    error: str = Field("", examples=[""])


class EventOut(BaseModel):
    """Something that people are told."""

    id: str = Field(examples=["runs-20261124-041530-a1b2c3-7-0"])
    event: str = Field(examples=["run.succeeded"])
    severity: str = Field(examples=["info"])
    title: str = Field(examples=["run 20261124-041530-a1b2c3 has promoted version 3"])
    run_id: str = Field("", examples=[EXAMPLE_RUN])
    alias: str = Field("", examples=["tiny"])
    collected_at: float = Field(description="Unix seconds.", examples=[1764000060.0])
    deliveries: list[DeliveryOut]

    @classmethod
    def of(cls, event: Event) -> EventOut:
        """From the fold of the outbox."""
        deliveries = [
            DeliveryOut(
                receiver=found.receiver,
                status=found.status,
                attempts=found.attempts,
                due_at=found.due_at,
                http_status=found.http_status,
                error=found.error,
            )
            for found in event.deliveries.values()
        ]
        return cls(
            id=event.id,
            event=event.event,
            severity=event.severity,
            title=event.title,
            run_id=event.run_id,
            alias=event.alias,
            collected_at=event.collected_at,
            deliveries=deliveries,
        )


class OutboxOut(BaseModel):
    """The outbox, as far as the caller may see it."""

    pending: list[EventOut] = Field(description="Oldest first.")
    dead: list[EventOut] = Field(description="What could not be delivered to somebody, oldest first.")
    delivered: list[EventOut] = Field(description="The latest, newest first.")


class RunOut(BaseModel):
    """One line about a run."""

    run_id: str = Field(examples=[EXAMPLE_RUN])
    status: str = Field(examples=["running"])
    created_at: float = Field(description="Unix seconds.", examples=[1764000000.0])
    updated_at: float = Field(description="Unix seconds of the last record.", examples=[1764000060.0])
    reason: str = Field("", description="Why it failed or was ended.")
    held: bool = Field(description="Whether a living runner drives it.", examples=[True])

    @classmethod
    def of(cls, summary: RunSummary) -> RunOut:
        """From the engine's summary."""
        return cls(
            run_id=summary.run_id,
            status=summary.status,
            created_at=summary.created_at,
            updated_at=summary.updated_at,
            reason=summary.reason,
            held=summary.held,
        )


class RunsOut(BaseModel):
    """The runs that the caller may see."""

    runs: list[RunOut]


class WaitOut(BaseModel):
    """What a run waits for."""

    kind: str = Field(examples=["approval"])
    name: str = Field(examples=["release"])
    due_at: float | None = Field(description="When it ends by itself, Unix seconds.", examples=[1764600000.0])


class StepOut(BaseModel):
    """One step of a run."""

    name: str = Field(examples=["train"])
    status: str = Field(examples=["running"])
    attempts: int = Field(examples=[1])
    started_at: float | None = Field(examples=[1764000030.0])
    finished_at: float | None = Field(examples=[None])
    done: float | None = Field(None, description="Units done, while it runs.", examples=[12])
    total: float | None = Field(None, description="Units in all.", examples=[20])
    message: str = Field("", examples=["loss 5.1"])
    error: str = Field("", description="Its failure, one line.")


class RunDetailOut(RunOut):
    """A run with its steps."""

    steps: list[StepOut]
    waits: list[WaitOut]
    parent: str = Field("", description="The run it was forked from.")

    @classmethod
    def of_view(cls, view: RunView) -> RunDetailOut:
        """From the engine's view."""
        return cls(
            run_id=view.run_id,
            status=view.status,
            created_at=view.created_at,
            updated_at=view.updated_at,
            reason=view.reason,
            held=view.held,
            parent=view.parent,
            waits=[WaitOut(kind=wait.kind, name=wait.name, due_at=wait.due_at) for wait in view.waits],
            steps=[
                StepOut(
                    name=step.name,
                    status=step.status,
                    attempts=step.attempts,
                    started_at=step.started_at,
                    finished_at=step.finished_at,
                    done=step.progress.done if step.progress else None,
                    total=step.progress.total if step.progress else None,
                    message=step.progress.message if step.progress else "",
                    error=str(step.error).partition("\n")[0][:500] if step.error else "",
                )
                for step in view.steps
            ],
        )


class ApprovalOut(BaseModel):
    """What a token is about, and what was decided."""

    run_id: str = Field(examples=[EXAMPLE_RUN])
    gate: str = Field(examples=["release"])
    digest: str = Field(description="SHA-256 of what is to be approved.", examples=["9f86d0..."])
    protected: bool = Field(description="Whether four eyes are needed.", examples=[True])
    authors: list[str] = Field(examples=[["Person::eve"]])
    expires_at: float = Field(description="Unix seconds.", examples=[1764600000.0])
    decision: Literal["approve", "reject"] | None = Field(None, examples=[None])
    by: str = Field("", examples=[""])
    is_void: bool = Field(False, description="The artifact has changed since the request.")

    @classmethod
    def of(cls, state: ApprovalState) -> ApprovalOut:
        """From the state of a token that was issued."""
        request, decision = state.request, state.decision
        assert request is not None, "only issued tokens are shown"
        return cls(
            run_id=request.run,
            gate=request.gate,
            digest=request.digest,
            protected=request.protected,
            authors=list(request.authors),
            expires_at=request.expires_at,
            decision=None if decision is None else "approve" if decision.granted else "reject",
            by=decision.by if decision else "",
            is_void=state.is_void,
        )
