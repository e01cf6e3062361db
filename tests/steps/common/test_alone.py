"""A step that no engine runs: its context, its command line, its errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from steps.common.alone import AloneContext, main
from steps.common.context import StepContext
from steps.common.results import CrawlResult
from workflows.log import BlobRef


class SieveConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    mesh: int = Field(default=3, ge=1)
    names: tuple[str, ...] = ()


class ModelConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    width: int = 8


@dataclass(frozen=True)
class SieveResult:
    mesh: int
    width: int
    source: str
    attempt: int
    num_previous: int


def sieve(
    config: SieveConfig, model: ModelConfig, crawl: CrawlResult, older: SieveResult | None, ctx: StepContext
) -> SieveResult:
    ctx.fence()
    ctx.progress(1, 2, "half", {"loss": 0.5})
    ctx.checkpoint("half", {"rows": [1, 2], "blob": ctx.blobs.put(b"x")})
    assert ctx.scratch.is_dir()
    if config.mesh == 13:
        raise RuntimeError("torn")
    return SieveResult(config.mesh, model.width, crawl.source, ctx.attempt, len(ctx.previous))


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    from workflows.log import Blobs, encode, open_store

    blobs = Blobs(open_store(f"file://{tmp_path}/store"))
    result = CrawlResult(
        source="docs",
        documents=(),
        removed=(),
        num_fetched=1,
        num_changed=0,
        num_unchanged=1,
        num_bytes=9,
        rejected={},
        seconds=0.1,
    )
    path = tmp_path / "crawl.json"
    path.write_text(json.dumps(encode(result, blobs)))
    return path


def run_main(tmp_path: Path, *arguments: str) -> int:
    return main(sieve, SieveConfig, ["--storage", f"file://{tmp_path}/store", *arguments])


def test_runs_a_step_and_prints_its_result(tmp_path: Path, crawl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run_main(
        tmp_path, "--inputs", str(crawl), "--set", "mesh=5", "--set", "model.width=16", "--set", 'names=["a"]'
    )
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["mesh"], printed["width"], printed["source"], printed["attempt"]) == (5, 16, "docs", 1)


def test_the_same_command_is_the_next_attempt_and_finds_the_checkpoints(
    tmp_path: Path, crawl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run_main(tmp_path, "--inputs", f"crawl={crawl}") == 0
    second = json.loads(capsys.readouterr().out.split("}\n{")[1].join(["{", ""]))
    assert (second["attempt"], second["num_previous"]) == (2, 1)


def test_other_settings_are_another_step(tmp_path: Path, crawl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(tmp_path, "--inputs", str(crawl)) == 0
    capsys.readouterr()
    assert run_main(tmp_path, "--inputs", str(crawl), "--set", "mesh=4") == 0
    assert json.loads(capsys.readouterr().out)["attempt"] == 1


def test_settings_come_from_a_recipe_file_and_assignments_win(
    tmp_path: Path, crawl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    section = sieve.__module__
    recipe.write_text(f'["{section}"]\nmesh = 7\n[model]\nwidth = 32\n')
    assert run_main(tmp_path, "--inputs", str(crawl), "--config", str(recipe), "--set", "model.width=64") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["mesh"], printed["width"]) == (7, 64)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "mehs=3"], "mehs"),
        (["--set", "mesh=0"], "mesh=0"),
        (["--set", "mesh"], "--set mesh"),
        (["--set", "names=[1"], "names=[1"),
        (["--set", "mesh.deep.er=1", "--set", "mesh.deep=1", "--set", "mesh.deep.er=1"], "deep"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, crawl: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], named: str
) -> None:
    assert run_main(tmp_path, "--inputs", str(crawl), *arguments) == 2
    assert named in caplog.text


def test_missing_and_foreign_inputs_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_main(tmp_path) == 2
    assert "crawl" in caplog.text
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"$type": "a:B"}')
    assert run_main(tmp_path, "--inputs", str(foreign)) == 2
    assert "a:B" in caplog.text


def test_a_failing_step_is_exit_code_1_and_keeps_its_checkpoints(tmp_path: Path, crawl: Path) -> None:
    for _ in range(2):
        assert run_main(tmp_path, "--inputs", str(crawl), "--set", "mesh=13") == 1


def test_storage_that_cannot_be_opened_is_wrong_use(crawl: Path) -> None:
    assert main(sieve, SieveConfig, ["--storage", "gopher://x", "--inputs", str(crawl)]) == 2


def test_context_keeps_records_and_blobs_of_earlier_attempts(storage: str, tmp_path: Path) -> None:
    def enter(inputs: Any) -> AloneContext:
        return AloneContext(storage, step="sieve", inputs=inputs, scratch=tmp_path)

    first = enter([1])
    first.checkpoint("trial-1", {"ref": first.blobs.put(b"weights")})
    first.checkpoint("trial-0", 2.5)
    second = enter([1])
    assert (second.attempt, second.token) == (2, first.token)
    assert [found.name for found in second.previous] == ["trial-1", "trial-0"]
    ref = second.previous[0].data["ref"]
    assert isinstance(ref, BlobRef)
    assert second.blobs.get(ref) == b"weights"
    assert enter([2]).previous == ()


def test_own_scratch_is_removed(tmp_path: Path) -> None:
    with AloneContext(str(tmp_path), step="sieve") as ctx:
        kept = ctx.scratch
        assert kept.is_dir()
    assert not kept.exists()
