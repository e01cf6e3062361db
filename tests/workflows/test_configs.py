"""Configs: every key named, every wrong one refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from workflows.configs import RECIPES, ConfigError, PipelineConfig, changed, load


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_each_recipe_is_a_full_config_that_survives_json(name: str) -> None:
    config = RECIPES[name]()

    assert config.recipe == name
    assert PipelineConfig.model_validate_json(config.model_dump_json(by_alias=True)) == config


def test_tiny_is_the_default() -> None:
    assert load(None, None, []) == RECIPES["tiny"]()


def test_a_field_is_set_by_its_path() -> None:
    config = load("nano", None, ["tune.num_trials=7", "deploy.serving.max_batch=3", "version.name=books"])

    assert (config.tune.num_trials, config.deploy.serving.max_batch, config.version.name) == (7, 3, "books")


def test_seeds_mean_the_web_whatever_the_recipe_crawls() -> None:
    config = load("nano", None, ['scrape.seeds=["https://example.org/"]'])

    assert (config.scrape.source, config.scrape.seeds) == ("web", ("https://example.org/",))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("tune.num_trails=7", "tune.num_trails"),
        ("tuning.num_trials=7", "tuning"),
        ("tune.num_trials=0", "tune.num_trials"),
        ("tune.num_trials=many", "tune.num_trials"),
        ("deploy.weights=[0.5, 0.1]", "must rise"),
        ("num_trials=7", "section.key=value"),
        ("tune.num_trials", "section.key=value"),
        ("version.name=Not A Name", "version.name"),
    ],
)
def test_an_override_that_cannot_be_is_refused_by_name(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        load("nano", None, [override])


def test_vllm_on_a_cpu_takes_no_model_that_it_would_die_of() -> None:
    with pytest.raises(ConfigError, match=r"model.hidden_size=64 / model.num_heads=4 is 16: .* needs one of 32, 64"):
        load("nano", None, ["deploy.serving.engine=vllm"])
    for more in ("model.num_heads=2", "deploy.serving.gpus_per_replica=1", "model.base=smollm2"):
        config = load("nano", None, ["deploy.serving.engine=vllm", "model.num_kv_heads=2", more])
        assert config.deploy.serving.engine == "vllm"
    assert load("tiny", None, ["deploy.serving.engine=vllm"]).deploy.serving.engine == "vllm"


def test_a_file_changes_the_recipe_it_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('recipe = "nano"\n[tune]\nnum_trials = 5\n[deploy.serving]\nmax_batch = 2\n')

    config = load(None, file, ["tune.seed=3"])

    assert (config.recipe, config.tune.num_trials, config.tune.seed) == ("nano", 5, 3)
    assert config.deploy.serving.max_batch == 2


@pytest.mark.parametrize("text", ["tune = 7\n", "no toml at all", "[tune]\nnum_trails = 1\n"])
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)

    with pytest.raises(ConfigError):
        load(None, file, [])


def test_a_missing_file_and_an_unknown_recipe_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load(None, tmp_path / "missing.toml", [])
    with pytest.raises(ConfigError, match="'huge'"):
        load("huge", None, [])


def test_a_change_keeps_everything_else() -> None:
    before = RECIPES["nano"]()

    after = changed(before, overrides=["train.seed=9"])

    assert after.train.seed == 9
    assert after.model_copy(update={"train": before.train}) == before


def test_every_field_has_a_sentence() -> None:
    def check(model: type[BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{path}.{name} has no description"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation, f"{path}.{name}")

    check(PipelineConfig, "config")


@pytest.mark.parametrize("uri", ["http://me:canary-secret@mlflow:5000", "postgresql://u:canary-secret@db/x"])
def test_a_password_in_a_config_is_refused_without_being_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.tracking_uri: a password") as caught:
        load("nano", None, [f"train.tracking_uri={uri}"])
    assert "canary-secret" not in str(caught.value)
    assert load("nano", None, ["train.tracking_uri=http://mlflow:5000"]).train.tracking_uri == "http://mlflow:5000"
