"""A model folder is checked before anything in it is loaded. Each refusal has the untouched folder as its control."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from steps.common.language_model import load_model, verify_model
from steps.common.language_model.base import load_base
from steps.common.language_model.errors import DamagedModelError, UnsafeModelError
from steps.common.model_gate import MAX_HEADER_BYTES, check_model, check_safetensors

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    save_file({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}, made / WEIGHTS)
    (made / "config.json").write_text(json.dumps({"model_type": "llama", "attn_implementation": "sdpa"}))
    (made / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"auto_map": 1, "model_file": 2}}}))
    return made


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def write(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(first: int, last: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


class _Bomb:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


def test_a_sound_folder_passes_with_and_without_digests(folder: Path) -> None:
    check_model(folder, digests(folder))
    check_model(folder, None)
    # A word of the vocabulary is no key of a configuration.
    assert "auto_map" in (folder / "tokenizer.json").read_text()


class TestFiles:
    @pytest.mark.parametrize(
        "name",
        ["pytorch_model.bin", "model.py", "model.pkl", "modeling_llama.py", ".hidden", "x.so", "requirements.txt"],
    )
    def test_files_of_other_kinds_are_refused(self, name: str, folder: Path) -> None:
        (folder / name).write_bytes(b"")
        with pytest.raises(UnsafeModelError, match=name):
            check_model(folder, None)

    def test_links_and_folders_are_refused(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_text("{}")
        (folder / "vocab.json").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UnsafeModelError, match="symbolic"):
            check_model(folder, None)
        (folder / "vocab.json").unlink()
        (folder / "vocab.json").mkdir()
        with pytest.raises(UnsafeModelError, match="flat"):
            check_model(folder, None)
        (folder / "vocab.json").rmdir()
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(UnsafeModelError, match="symbolic"):
            check_model(tmp_path / "link", None)
        check_model(folder, None)

    @pytest.mark.parametrize(
        ("change", "error", "why"),
        [
            (lambda d: d | {WEIGHTS: "0" * 64}, DamagedModelError, "digest differs"),
            (lambda d: d | {"vocab.json": "0" * 64}, DamagedModelError, "missing"),
            (lambda d: {k: v for k, v in d.items() if k != WEIGHTS}, UnsafeModelError, "not named"),
            (lambda d: d | {"../../etc/passwd": "0" * 64}, UnsafeModelError, "leads out"),
            (lambda d: d | {"..": "0" * 64}, UnsafeModelError, "leads out"),
        ],
    )
    def test_digests_must_be_those_of_all_files(
        self, change: Callable[[dict[str, str]], dict[str, str]], error: type[Exception], why: str, folder: Path
    ) -> None:
        with pytest.raises(error, match=why):
            check_model(folder, change(digests(folder)))


class TestConfigurations:
    @pytest.mark.parametrize(
        "extra",
        [
            {"auto_map": {"AutoModel": "evil.Model"}},
            {"quantization_config": {"inner": [{"auto_map": {"x": "y"}}]}},
            {"model_file": "evil.py"},
            {"trust_remote_code": True},
            {"_attn_implementation": "someone/kernel"},
            {"attn_implementation": "someone/kernel:forward"},
            {"text_config": {"_attn_implementation_internal": "hub:kernel"}},
        ],
    )
    @pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
    def test_what_would_import_code_is_refused(self, name: str, extra: dict[str, Any], folder: Path) -> None:
        (folder / name).write_text(json.dumps({"model_type": "llama"} | extra))
        with pytest.raises(UnsafeModelError, match=name):
            check_model(folder, None)

    @pytest.mark.parametrize("harmless", [{"auto_map": None}, {"attn_implementation": "flash_attention_2"}, {}])
    def test_what_would_not_passes(self, harmless: dict[str, Any], folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(harmless))
        check_model(folder, None)

    def test_an_index_that_leads_out_of_the_folder_is_refused(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "../../other/model.safetensors"}}))
        with pytest.raises(UnsafeModelError, match="leads out"):
            check_model(folder, None)
        index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
        check_model(folder, None)

    @pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff"])
    def test_what_is_no_json_is_refused(self, text: str, folder: Path) -> None:
        (folder / "config.json").write_text(text)
        with pytest.raises(DamagedModelError, match=r"config\.json"):
            check_model(folder, None)


class TestWeights:
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_a_pickle_under_another_name_is_refused_and_not_run(
        self, protocol: int, folder: Path, tmp_path: Path
    ) -> None:
        (folder / WEIGHTS).write_bytes(pickle.dumps(_Bomb(tmp_path / "ran"), protocol=protocol))
        with pytest.raises(UnsafeModelError, match="no safetensors"):
            check_model(folder, None)
        with pytest.raises((UnsafeModelError, DamagedModelError)):
            load_base(folder)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("data", [b"", b"\x01", b"PK\x03\x04" + b"\0" * 40, struct.pack("<Q", 1) + b"[]"])
    def test_other_files_are_refused(self, data: bytes, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(data)
        with pytest.raises(UnsafeModelError):
            check_safetensors(folder / WEIGHTS)

    def test_a_header_over_the_limit_is_refused_before_it_is_read(self, folder: Path) -> None:
        write(folder / WEIGHTS, b"{}", length=MAX_HEADER_BYTES + 1)
        with pytest.raises(UnsafeModelError, match="100,000,000"):
            check_safetensors(folder / WEIGHTS)
        write(folder / WEIGHTS, b"{}", length=3)
        with pytest.raises(DamagedModelError, match="header of 3 bytes"):
            check_safetensors(folder / WEIGHTS)
        write(folder / WEIGHTS, b"{}")
        check_safetensors(folder / WEIGHTS)

    @pytest.mark.parametrize(
        "header",
        [
            {"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])},
            {"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])},
            {"a": tensor(0, 8, [2])},
            {"a": tensor(0, 12, [2])},
            {"a": tensor(0, 16, [4])},
            {"a": tensor(4, 12, [2])},
            {"a": tensor(8, 0, [2])},
            {"a": tensor(-4, 8, [3])},
            {"a": tensor(0, 12, [-3])},
        ],
        ids=["overlap", "gap", "left over", "shape lies", "past the end", "late", "backwards", "negative", "shape"],
    )
    def test_offsets_must_cover_the_data_once(self, header: dict[str, Any], folder: Path) -> None:
        write(folder / WEIGHTS, header, bytes(12))
        with pytest.raises(DamagedModelError):
            check_safetensors(folder / WEIGHTS)
        write(folder / WEIGHTS, {"a": tensor(0, 8, [2]), "b": tensor(8, 12, [1])}, bytes(12))
        check_safetensors(folder / WEIGHTS)

    @pytest.mark.parametrize(
        "header",
        [
            b'{"a": 1}',
            b'{"a": {"dtype": "OBJECT", "shape": [], "data_offsets": [0, 0]}}',
            b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0]}}',
            b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": {}}',
            b"{" * 50_000,
        ],
    )
    def test_a_header_that_is_no_list_of_tensors_is_refused(self, header: bytes, folder: Path) -> None:
        write(folder / WEIGHTS, header)
        with pytest.raises((UnsafeModelError, DamagedModelError)):
            check_safetensors(folder / WEIGHTS)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
    def test_weights_that_are_not_finite_are_refused(self, dtype: str, value: float, folder: Path) -> None:
        weights = np.zeros(1000, dtype)
        save_file({"ok": weights}, folder / WEIGHTS)
        check_safetensors(folder / WEIGHTS)
        weights[999] = value
        save_file({"ok": np.zeros(3, dtype), "bad": weights}, folder / WEIGHTS)
        with pytest.raises(DamagedModelError, match="'bad' holds weights that are not finite"):
            check_safetensors(folder / WEIGHTS)

    @pytest.mark.parametrize(("bits", "fine"), [(0x3F80, True), (0x7F7F, True), (0x7F80, False), (0xFFC1, False)])
    def test_weights_of_16_bits_too(self, bits: int, fine: bool, folder: Path) -> None:
        write(folder / WEIGHTS, {"a": tensor(0, 2, [1], "BF16")}, struct.pack("<H", bits))
        if fine:
            check_safetensors(folder / WEIGHTS)
            return
        with pytest.raises(DamagedModelError, match="not finite"):
            check_safetensors(folder / WEIGHTS)


def test_every_loader_passes_the_gate(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(UnsafeModelError, match="auto_map"):
        load_base(folder)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": digests(folder)}))
    for load in (verify_model, load_model):
        with pytest.raises(UnsafeModelError, match="auto_map"):
            load(folder)
