from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steps.common.language_model import (
    DamagedModelError,
    ModelConfig,
    SpecialIds,
    UnsafeModelError,
    build_model,
    load_model,
    num_parameters,
    save_model,
    verify_model,
)
from steps.common.language_model.model import write_manifest

SPECIAL = SpecialIds(pad=0, bos=1, eos=2)
TOKENIZER = {"tokenizer.json": b"{}", "tokenizer_config.json": b'{"eos_token": "x"}'}


def build(config: ModelConfig, seed: int = 0) -> Any:
    return build_model(config, config.vocab_size, SPECIAL, seed)


@pytest.fixture
def folder(tmp_path: Path, small_model: ModelConfig) -> Path:
    save_model(build(small_model), TOKENIZER, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_comes_back(folder: Path, small_model: ModelConfig) -> None:
    import torch

    loaded, built = load_model(folder), build(small_model)
    assert num_parameters(loaded) == num_parameters(built)
    for name, weight in built.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_equal_seeds_give_equal_weights_and_leave_torch_alone(small_model: ModelConfig) -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = build(small_model, 1), build(small_model, 1), build(small_model, 2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def add_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    write_manifest(folder)


def add_code(folder: Path) -> None:
    (folder / "modeling_llama.py").write_text("import os")
    write_manifest(folder)


def add_auto_map(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder)


def add_link(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to("/etc/hostname")


def add_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def add_unnamed_file(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text("{}")


@pytest.mark.parametrize("tamper", [add_pickle, add_code, add_auto_map, add_link, add_folder, add_unnamed_file])
def test_what_could_run_code_is_refused(folder: Path, tamper: Any) -> None:
    tamper(folder)
    with pytest.raises(UnsafeModelError):
        load_model(folder)


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lose_a_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def break_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": 3}')


@pytest.mark.parametrize("tamper", [flip_a_bit, lose_a_file, lose_the_manifest, break_the_manifest])
def test_what_was_not_saved_is_refused(folder: Path, tamper: Any) -> None:
    tamper(folder)
    with pytest.raises(DamagedModelError):
        verify_model(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, small_model: ModelConfig) -> None:
    import torch

    model = build(small_model)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    save_model(model, TOKENIZER, tmp_path / "model")
    with pytest.raises(DamagedModelError, match="not finite"):
        load_model(tmp_path / "model")
