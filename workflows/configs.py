"""What a run is made of: one typed, frozen config, and the recipes that return a full one.

A recipe is a function. To make your own, copy one and change three lines, or keep a recipe and change single fields
with `--set section.key=value` or a TOML file of sections.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steps.common.language_model import ModelConfig
from steps.common.signals import SignalPolicy
from steps.deploy import DeployConfig
from steps.evaluate import EvaluateConfig
from steps.monitor import MonitorConfig
from steps.scrape import ScrapeConfig
from steps.train import TrainConfig
from steps.tune import TuneConfig
from steps.validate import ValidateConfig
from steps.version import VersionConfig
from workflows.log.redaction import passwords_in

VLLM_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""`CPUAttentionBackend.get_supported_head_sizes()` of vLLM 0.29; it dies of the first request to any other."""


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key, the value and the rule."""


class ApprovalConfig(BaseModel):
    """Whether a person must agree before a challenger meets clients."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool = Field(False, description="Wait for `runs approve ID release` between evaluation and release.")
    expires_s: float = Field(7 * 24 * 3600.0, gt=0, description="Time to decide; after it the answer is no.")


class PipelineConfig(BaseModel):
    """Everything that decides what a run does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field(description="The recipe that this config began as.")
    scrape: ScrapeConfig = Field(default_factory=ScrapeConfig, description="What is crawled, and how politely.")
    validate_: ValidateConfig = Field(
        default_factory=ValidateConfig, alias="validate", description="Which documents are kept."
    )
    version: VersionConfig = Field(default_factory=VersionConfig, description="The dataset that they are committed to.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Architecture and tokenizer.")
    tune: TuneConfig = Field(default_factory=TuneConfig, description="The search for hyperparameters.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="The training.")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="The gate before release.")
    approval: ApprovalConfig = Field(default_factory=ApprovalConfig, description="The person before release.")
    deploy: DeployConfig = Field(default_factory=DeployConfig, description="Serving, shadow, canary.")
    monitor: MonitorConfig = Field(default_factory=MonitorConfig, description="The drift reference.")
    signals: SignalPolicy = Field(default_factory=SignalPolicy, description="When a signal gets a run.")

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        on_cpu = self.deploy.serving.engine == "vllm" and not self.deploy.serving.gpus_per_replica
        head_size = self.model.hidden_size // self.model.num_heads
        if on_cpu and self.model.base == "scratch" and head_size not in VLLM_CPU_HEAD_SIZES:
            raise ValueError(
                f"model.hidden_size={self.model.hidden_size} / model.num_heads={self.model.num_heads} is {head_size}: "
                f"deploy.serving.engine='vllm' on a CPU needs one of {', '.join(map(str, VLLM_CPU_HEAD_SIZES))}"
            )
        return self


def nano() -> PipelineConfig:
    """Thirty bundled pages, two trials, twenty training steps: the same loop in under a minute on a warm Ray."""
    return _recipe(
        "nano",
        {
            "scrape": {"source": "bundled", "max_pages": 40},
            "version": {"name": "nano", "num_buckets": 4, "heldout_fraction": 0.3},
            "model": {
                "vocab_size": 512,
                "row_length": 128,
                "hidden_size": 64,
                "num_layers": 1,
                "num_heads": 4,
                "num_kv_heads": 2,
                "intermediate_size": 128,
            },
            "tune": {
                "num_trials": 2,
                "max_steps": 5,
                "grace_steps": 5,
                "max_concurrent_trials": 1,  # a second worker's imports take longer than both trials
                "rows_per_step": 32,
                "learning_rate": {"low": 0.015, "high": 0.03, "log": True},
            },
            "train": {"model_name": "nano", "num_steps": 20, "rows_per_step": 32, "checkpoint_every_steps": 10},
            "evaluate": {"min_documents": 5},
            "deploy": {
                "alias": "nano",
                "shadow": False,
                "weights": [0.5],
                "min_step_s": 1.0,
                "min_units": 10,
                "look_every_s": 1.0,
                "timeout_s": 120.0,
                "max_failed_rate": 0.3,
                "replay_prompts": 24,
                "replay_max_tokens": 8,
            },
            "monitor": {
                "run_length": 100,
                "window": 10,
                "min_sessions": 60,
                "num_bootstraps": 200,
                "max_tokens": 32,
            },
        },
    )


def tiny() -> PipelineConfig:
    """The default: this Python's own documentation, a small Llama from scratch, minutes on two cores."""
    return _recipe(
        "tiny",
        {
            "scrape": {"source": "pydoc", "max_pages": 200},
            "version": {"name": "pydoc"},
            "tune": {"num_trials": 4, "max_steps": 40, "grace_steps": 10},
            "evaluate": {"max_documents": 60, "max_document_chars": 4000},
            "train": {"model_name": "tiny", "num_steps": 200},
            "deploy": {
                "alias": "tiny",
                "weights": [0.2, 0.5],
                "min_step_s": 5.0,
                "min_units": 20,
                "look_every_s": 5.0,
                "timeout_s": 600.0,
                "max_failed_rate": 0.1,
                "replay_prompts": 32,
            },
            "monitor": {"run_length": 500, "window": 20, "min_sessions": 300, "max_tokens": 64},
        },
    )


def smollm2() -> PipelineConfig:
    """A real base model, SmolLM2-135M-Instruct, fine-tuned with LoRA on the same pages; extra `smollm2`."""
    return _recipe(
        "smollm2",
        {
            "scrape": {"source": "pydoc", "max_pages": 200},
            "version": {"name": "pydoc"},
            "model": {"base": "smollm2"},
            "tune": {"num_trials": 2, "max_steps": 4, "grace_steps": 2, "rows_per_step": 2, "rows_per_microbatch": 1},
            "train": {"model_name": "smollm2", "num_steps": 40, "rows_per_step": 2, "rows_per_microbatch": 1},
            "evaluate": {"max_documents": 20, "max_document_chars": 2000, "rows_per_microbatch": 1},
            "deploy": {"alias": "smollm2", "weights": [0.2, 0.5], "max_failed_rate": 0.1, "replay_prompts": 16},
        },
    )


def llama() -> PipelineConfig:
    """A Llama of a billion weights on a cluster with GPUs: trained sharded (FSDP2), served by vLLM."""
    return _recipe(
        "llama",
        {
            "scrape": {
                "source": "web",
                "seeds": ["https://docs.python.org/3/"],
                "max_pages": 100_000,
                "num_fetchers": 8,
            },
            "version": {"name": "web"},
            # The shape of Llama 3.2 1B.
            "model": {
                "vocab_size": 32_768,
                "row_length": 4096,
                "hidden_size": 2048,
                "num_layers": 16,
                "num_heads": 32,
                "num_kv_heads": 8,
                "intermediate_size": 8192,
            },
            "tune": {
                "num_trials": 4,
                "max_steps": 200,
                "grace_steps": 50,
                "rows_per_step": 16,
                "rows_per_microbatch": 1,
                "gpus_per_trial": 1,
                "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True},
            },
            "train": {
                "model_name": "llama",
                "num_steps": 10_000,
                "rows_per_step": 256,
                "rows_per_microbatch": 4,
                "num_workers": 8,
                "cpus_per_worker": 4.0,
                "gpus_per_worker": 1,
                "strategy": "fsdp",
                "checkpoint_every_steps": 500,
            },
            "evaluate": {"max_documents": 500, "rows_per_microbatch": 1},
            "deploy": {
                "alias": "llama",
                "serving": {"engine": "vllm", "replica_cpus": 4.0, "gpus_per_replica": 1, "ready_s": 900.0},
            },
        },
    )


RECIPES: Mapping[str, Callable[[], PipelineConfig]] = {
    recipe.__name__: recipe for recipe in (nano, tiny, smollm2, llama)
}


def load(recipe: str | None, file: Path | None, overrides: Sequence[str]) -> PipelineConfig:
    """Puts a config together: a recipe, then the sections of a TOML file, then single fields.

    Args:
        recipe: Name of a recipe; `tiny` if neither it nor the file names one.
        file: TOML with sections as in `PipelineConfig`; the top-level key `recipe` says what it changes.
        overrides: `section.key=value`, the value as JSON or else as text.

    Raises:
        ConfigError: An unknown recipe or key, or an impossible value.
    """
    sections: dict[str, Any] = {}
    if file is not None:
        try:
            sections = tomllib.loads(file.read_text())
        except OSError as error:
            raise ConfigError(f"--config {str(file)!r} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config {str(file)!r} is no TOML: {error}") from error
        recipe = sections.pop("recipe", recipe)
    name = recipe or "tiny"
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; there are {', '.join(RECIPES)}")
    return changed(RECIPES[name](), sections, overrides)


def changed(
    config: PipelineConfig, sections: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> PipelineConfig:
    """Gives the config with other values in some fields.

    Raises:
        ConfigError: An unknown key or an impossible value.
    """
    values = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    given: dict[str, Any] = {}
    _merge(given, sections or {})
    for override in overrides:
        path, _, text = override.partition("=")
        keys = path.strip().split(".")
        if "=" not in override or len(keys) < 2 or not all(keys):
            raise ConfigError(f"--set {override!r} must read section.key=value")
        _merge(given, _nested(keys, _value(text)))
    if "seeds" in given.get("scrape", {}) and "source" not in given["scrape"]:
        values.get("scrape", {}).pop("source", None)  # seeds mean the web, whatever the recipe crawls
    _refuse_passwords(given)
    _merge(values, given)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explained(error)) from error


def check_protected(config: PipelineConfig, *, protected: bool) -> None:
    """Returns if a run with this config may release what it makes, should it be good.

    Args:
        config: Of a run that is to be started.
        protected: Whether its alias is.

    Raises:
        ConfigError: It could only stop before the release, hours later.
    """
    if protected and not config.approval.required:
        alias = config.deploy.alias
        raise ConfigError(
            f"approval.required: must be true (it is false), because the alias {alias!r} is protected: what is "
            "released under it needs a second person"
        )


def _recipe(name: str, values: Mapping[str, Any]) -> PipelineConfig:
    return PipelineConfig.model_validate({"recipe": name, **values})


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = dict(value) if isinstance(value, Mapping) else value


def _refuse_passwords(given: Mapping[str, Any]) -> None:
    """A config stands in the journal for good, where everybody reads it who can read the storage."""
    stack: list[tuple[str, Any]] = [("", given)]
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend((f"{key}.{name}".lstrip("."), entry) for name, entry in value.items())
        elif isinstance(value, list):
            stack.extend((key, entry) for entry in value)
        elif isinstance(value, str) and any(passwords_in(value)):
            raise ConfigError(f"{key}: a password in a URL would be recorded; put it into the environment instead")


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    return {keys[0]: _nested(keys[1:], value) if len(keys) > 1 else value}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _explained(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "config"
        shown = "" if problem["type"] in ("missing", "extra_forbidden") else f" (it is {problem['input']!r:.200})"
        rule = "is not a key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{key}: {rule}{shown}")
    return "; ".join(lines)
