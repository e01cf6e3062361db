"""What a folder must pass before anything in it is loaded as a model. Reads files; imports and runs nothing of them.

Takes a folder and the digests that somebody vouches for; returns, or raises with the file and the reason. It refuses
whatever could run code (pickles under any name, `auto_map`, code files, attention kernels from a hub), whatever points
elsewhere (links, paths), and weights that are damaged (a header that lies, values that are not finite).
Formats: https://huggingface.co/docs/safetensors (header of at most 100 MB, offsets without gap or overlap).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.common.language_model.errors import DamagedModelError, UnsafeModelError

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""

MAX_JSON_BYTES = 64 * 2**20
ALLOWED = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|vocab\.json|merges\.txt|chat_template\.jinja|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)
"""Names of files that belong into a model folder."""

_CODE_KEYS = frozenset({"auto_map", "model_file", "custom_pipelines", "trust_remote_code"})
_ATTENTION_KEYS = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})
_TYPES: Mapping[str, str] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|u1",
}  # fmt: skip
_BF16_EXPONENT = np.uint16(0x7F80)
_CHUNK_VALUES = 2**22


def check_model(folder: Path, digests: Mapping[str, str] | None, *, beside: frozenset[str] = frozenset()) -> None:
    """Lets a model folder pass, or refuses it.

    Args:
        folder: What is to be loaded.
        digests: SHA-256 of each file by name; None where the files were fetched by digest just now.
        beside: Names of further files, for example the manifest itself.

    Raises:
        UnsafeModelError: It could run code, points elsewhere, or holds what nobody vouches for.
        DamagedModelError: A file is missing or differs, or weights are torn or not finite.
    """
    files = _files(folder, beside)
    if digests is not None:
        _check_digests(files, digests)
    for name, path in files.items():
        if name.endswith(".json"):
            _check_json(name, path)
        elif name.endswith(".safetensors"):
            check_safetensors(path)


def check_safetensors(path: Path) -> None:
    """Reads header and weights of a file without the library that would load it.

    Raises:
        UnsafeModelError: It is no safetensors file, whatever its name says.
        DamagedModelError: Its header does not fit its data, or a weight is not finite.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(9)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 9 or head[8:9] != b"{":
            raise UnsafeModelError(path.name, "no safetensors file: it does not begin with a header")
        if length > MAX_HEADER_BYTES:
            raise UnsafeModelError(path.name, f"a header of {length:,} bytes, {MAX_HEADER_BYTES:,} are allowed")
        if length > size - 8:
            raise DamagedModelError(path.name, f"a header of {length:,} bytes in a file of {size:,}")
        file.seek(8)
        tensors = _header(path.name, file.read(length))
    begin = 8 + length
    end = 0
    for name, dtype, shape, (first, last) in sorted(tensors, key=lambda tensor: tensor[3]):
        kind = np.dtype(_TYPES[dtype])
        if first != end or last - first != math.prod(shape) * kind.itemsize:
            raise DamagedModelError(path.name, f"tensor {name!r} at {first}..{last} overlaps, leaves a gap or lies")
        end = last
        if last > size - begin:
            raise DamagedModelError(path.name, f"tensor {name!r} ends after the file")
        if last > first and dtype in ("F64", "F32", "F16", "BF16"):
            values = np.memmap(path, kind, "r", offset=begin + first, shape=(math.prod(shape),))
            if not _is_finite(values, bits=dtype == "BF16"):
                raise DamagedModelError(path.name, f"tensor {name!r} holds weights that are not finite")
    if end != size - begin:
        raise DamagedModelError(path.name, f"{size - begin - end:,} bytes belong to no tensor")


def _files(folder: Path, beside: frozenset[str]) -> dict[str, Path]:
    if folder.is_symlink():
        raise UnsafeModelError(folder.name, "symbolic links may point anywhere")
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            raise UnsafeModelError(path.name, "symbolic links may point anywhere")
        if not path.is_file():
            raise UnsafeModelError(path.name, "a model is a flat folder of files")
        if path.name in beside:
            continue
        if not ALLOWED.fullmatch(path.name):
            raise UnsafeModelError(
                path.name, "only safetensors, JSON and the tokenizer's files belong into a model folder"
            )
        found[path.name] = path
    return found


def _check_digests(files: Mapping[str, Path], digests: Mapping[str, str]) -> None:
    for name in sorted(set(digests) | set(files)):
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            raise UnsafeModelError(name, "a path that leads out of the folder")
        if name not in files:
            raise DamagedModelError(name, "named in the manifest, but missing")
        if name not in digests:
            raise UnsafeModelError(name, "not named in the manifest")
        with files[name].open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digests[name]:
                raise DamagedModelError(name, "digest differs from the manifest")


def _check_json(name: str, path: Path) -> None:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UnsafeModelError(name, f"more than {MAX_JSON_BYTES:,} bytes of JSON")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedModelError(name, f"no JSON: {type(error).__name__}") from None
    if name == "tokenizer.json":
        return  # Its vocabulary may hold any word; the library that reads it knows no code.
    for key, value in _entries(document):
        if key in _CODE_KEYS and value:
            raise UnsafeModelError(name, f"{key} would import code")
        if key in _ATTENTION_KEYS and isinstance(value, str) and ("/" in value or ":" in value):
            raise UnsafeModelError(name, f"{key} = {value!r} would fetch code from a hub")
        if name.endswith(".index.json") and key == "weight_map" and isinstance(value, Mapping):
            wrong = next((file for file in value.values() if not ALLOWED.fullmatch(str(file))), None)
            if wrong is not None:
                raise UnsafeModelError(name, f"weights in {wrong!r}, a path that leads out of the folder")


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield from value.items()
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _header(file: str, text: bytes) -> list[tuple[str, str, list[int], tuple[int, int]]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise UnsafeModelError(file, "a header that names something twice")
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=once)
        document.pop("__metadata__", None)
        tensors = [
            (str(name), str(entry["dtype"]), [int(n) for n in entry["shape"]], tuple(map(int, entry["data_offsets"])))
            for name, entry in document.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnsafeModelError(
            file, f"no safetensors file: its header is no list of tensors ({type(error).__name__})"
        ) from None
    checked = []
    for name, dtype, shape, offsets in tensors:
        if dtype not in _TYPES:
            raise UnsafeModelError(file, f"tensor {name!r} of type {dtype!r}, which is not checked here")
        if len(offsets) != 2 or not 0 <= offsets[0] <= offsets[1] or any(n < 0 for n in shape):
            raise DamagedModelError(file, f"tensor {name!r} with offsets {offsets} and shape {shape}")
        checked.append((name, dtype, shape, (offsets[0], offsets[1])))
    return checked


def _is_finite(values: npt.NDArray[Any], *, bits: bool) -> bool:
    for start in range(0, len(values), _CHUNK_VALUES):
        chunk = values[start : start + _CHUNK_VALUES]
        # A number of 16 bits is infinite or none if all bits of its exponent are set.
        good = (chunk & _BF16_EXPONENT) != _BF16_EXPONENT if bits else np.isfinite(chunk)
        if not bool(good.all()):
            return False
    return True
