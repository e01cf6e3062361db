"""Settings of serving and of rollouts."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steps.common.eprocess import DEFAULT_NULL_RATIO


class ServingConfig(BaseModel):
    """How models are served. Travels in the release log, so that whoever converges an endpoint makes the same one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["transformers", "vllm"] = Field(
        default="transformers", description="What generates; `vllm` needs the extra of that name."
    )
    num_replicas: int = Field(default=1, ge=1, description="Replicas of each model version.")
    replica_cpus: float = Field(default=0.2, gt=0, description="Logical CPUs that a replica holds in Ray's accounting.")
    gpus_per_replica: int = Field(default=0, ge=0, description="GPUs of a replica; only the engine `vllm` uses any.")
    router_cpus: float = Field(default=0.1, gt=0, description="Logical CPUs that the router holds in Ray's accounting.")
    num_threads: int = Field(default=1, ge=1, description="Threads of torch in a replica.")
    max_batch: int = Field(default=8, ge=1, description="Requests that a replica generates for at the same time.")
    max_context: int | None = Field(
        default=None, ge=8, description="Most tokens of prompt and answer; None: what the model was made for."
    )
    max_in_flight: int = Field(default=64, ge=1, description="Requests in the router at the same time; more get 429.")
    max_body_bytes: int = Field(default=2**20, ge=1024, description="Largest request body; larger ones get 413.")
    first_token_s: float = Field(
        default=60.0, gt=0, description="Longest wait for the champion's first token, retries included; then 503."
    )
    challenger_first_token_s: float = Field(
        default=15.0, gt=0, description="Longest wait for the challenger's first token; then the champion answers."
    )
    stall_s: float = Field(
        default=60.0, gt=0, description="Longest pause between two pieces of an answer; then it is broken."
    )
    max_shadow_queue: int = Field(
        default=32, ge=1, description="Shadow requests that may wait; more are dropped and counted."
    )
    max_scores_queue: int = Field(
        default=64, ge=1, description="Answers that may wait for their score during a rollout; more go unscored."
    )
    keep_texts: bool = Field(
        default=True,
        description="Keep the texts of prompts and answers in the outcome log: drift detectors read them.",
    )
    drain_s: float = Field(
        default=60.0, ge=0, description="Time that open answers of a version get after its application was removed."
    )
    ready_s: float = Field(default=180.0, gt=0, description="Longest time that an application may take to come up.")
    host: str = Field(default="127.0.0.1", description="Address that the endpoint listens on.")
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the endpoint; None: the one it had, else a free one."
    )


class DeployConfig(BaseModel):
    """How a model that passed evaluation is released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: str = Field(
        default="everloop",
        pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$",
        description="Public model name that clients ask for.",
    )
    serving: ServingConfig = Field(default_factory=ServingConfig, description="How models are served.")
    force: bool = Field(default=False, description="Roll out even what evaluation held or rejected: for drills.")
    shadow: bool = Field(
        default=True,
        description="Begin with a stage in which the challenger answers copies of requests, never returned.",
    )
    weights: tuple[float, ...] = Field(
        default=(0.05, 0.1, 0.25, 0.5), description="Shares of the sessions that the challenger answers, step by step."
    )
    min_step_s: float = Field(default=300.0, ge=0, description="Shortest time at one weight.")
    min_units: int = Field(
        default=50, ge=1, description="Challenger units (session and step) judged at one weight before it rises."
    )
    look_every_s: float = Field(default=15.0, gt=0, description="Time between two looks at the outcomes.")
    timeout_s: float = Field(default=24 * 3600.0, gt=0, description="Time after which `on_timeout` decides.")
    on_timeout: Literal["hold", "roll_back", "promote"] = Field(
        default="hold",
        description="Verdict at the deadline: `hold` ends without one, `promote` trusts the evaluation.",
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Probability of rolling back a challenger that is not worse, over all looks.",
    )
    null_ratio: float = Field(
        default=DEFAULT_NULL_RATIO,
        ge=1,
        description="Ratio of the rates of bad units up to which a challenger is not worse.",
    )
    max_failed_rate: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Failed units that a champion may have: the anytime-valid upper bound must be below it.",
    )
    slow_ttft_s: float | None = Field(
        default=2.0,
        gt=0,
        description="First token later than this is slow, unless the champion's 95th percentile is later; None: never.",
    )
    slow_tpot_s: float | None = Field(
        default=0.5,
        gt=0,
        description="Tokens slower than this are slow, unless the champion's 95th percentile is; None: never.",
    )
    max_nats_per_byte: float | None = Field(
        default=3.5,
        gt=0,
        description="Answers that the champion finds less likely than this are implausible; None: no scores.",
    )
    max_deaths: int = Field(
        default=3, ge=1, description="Deaths of the challenger's replicas that roll it back at once."
    )
    unready_s: float = Field(default=30.0, gt=0, description="Time without a ready challenger that rolls it back.")
    num_smoke_prompts: int = Field(
        default=3, ge=1, description="Answers that the first model must give before it is released."
    )
    replay_prompts: int = Field(
        default=0,
        ge=0,
        description="Held-out prompts sent to the endpoint at each look as traffic; 0: only real traffic counts.",
    )
    replay_max_tokens: int = Field(default=16, ge=1, description="Tokens asked for by a replayed prompt.")

    @model_validator(mode="after")
    def _check(self) -> DeployConfig:
        if not self.weights:
            raise ValueError("weights must not be empty")
        if any(not 0 < weight <= 1 for weight in self.weights):
            raise ValueError(f"weights={self.weights} must all lie in (0, 1]")
        if list(self.weights) != sorted(set(self.weights)):
            raise ValueError(f"weights={self.weights} must rise: sessions on the canary are not sent back")
        if self.look_every_s > self.timeout_s:
            raise ValueError(f"look_every_s={self.look_every_s:g} must not exceed timeout_s={self.timeout_s:g}")
        return self
