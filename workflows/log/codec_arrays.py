"""Arrays of numpy, Arrow and torch as raw bytes with a small header.

A contiguous array goes to the store without a copy, and one copy at most is made on the way back. The libraries are
imported only when a value of theirs is met.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from workflows.log.errors import CannotEncode
from workflows.log.store import Buffer

Bulk: TypeAlias = Callable[[Buffer], Any]
Keep: TypeAlias = Callable[[Buffer, str], Any]

TAGS = frozenset({"$ndarray", "$scalar", "$tensor", "$table", "$batch"})
_ARROW_MEDIA_TYPE = "application/vnd.apache.arrow.stream"


def encode_array(value: Any, path: str, bulk: Bulk, keep: Keep) -> Any:
    """The JSON form of an array, table or tensor; None for anything else.

    Args:
        value: Anything.
        path: Its place, for errors.
        bulk: Turns bytes into JSON, inline or as a blob.
        keep: Turns bytes into a blob.

    Raises:
        CannotEncode: An array of objects, a sparse or quantized tensor, a parameter of a model.
    """
    library = type(value).__module__.partition(".")[0]
    if library not in ("numpy", "pyarrow", "torch") or library not in sys.modules:
        return None
    if library == "numpy":
        return _encode_numpy(value, path, bulk)
    if library == "pyarrow":
        return _encode_arrow(value, keep)
    return _encode_torch(value, path, bulk)


def decode_array(tag: str, data: Any, bulk: Callable[[Any], bytes]) -> Any:
    """The array, table or tensor of a JSON form. Arrays and tables are read-only views of the bytes that were read."""
    if tag in ("$ndarray", "$scalar"):
        return _decode_numpy(tag, data, bulk)
    if tag == "$tensor":
        return _decode_torch(data, bulk)
    import pyarrow as pa

    with pa.ipc.open_stream(pa.py_buffer(bulk(data))) as reader:
        return reader.read_all() if tag == "$table" else reader.read_next_batch()


def _encode_numpy(value: Any, path: str, bulk: Bulk) -> Any:
    import numpy as np

    if isinstance(value, np.generic):
        array = np.asarray(value)
        tag = "$scalar"
    elif type(value) is np.ndarray:
        array = value
        tag = "$ndarray"
    else:
        return None
    if array.dtype.hasobject:
        raise CannotEncode(path, f"a numpy array of {array.dtype} holds Python objects; use a list, or an Arrow table")
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    header = {
        "dtype": np.lib.format.dtype_to_descr(array.dtype),  # type: ignore[no-untyped-call]
        "shape": list(array.shape),
        "order": "F" if fortran else "C",
        "data": bulk(flat.view(np.uint8).data if flat.size else memoryview(b"")),
    }
    return {tag: header}


def _decode_numpy(tag: str, data: Mapping[str, Any], bulk: Callable[[Any], bytes]) -> Any:
    import numpy as np

    dtype = np.lib.format.descr_to_dtype(_descr(data["dtype"]))  # type: ignore[no-untyped-call]
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} holds objects")
    flat = np.frombuffer(bulk(data["data"]), dtype=dtype)
    array = flat.reshape(data["shape"], order=data["order"])
    return array[()] if tag == "$scalar" else array


def _descr(value: Any) -> Any:
    # JSON has no tuples, and numpy wants them: [name, type] or [name, type, shape] for each field.
    if isinstance(value, str):
        return value
    return [tuple(_descr(part) if number == 1 else _shape(part) for number, part in enumerate(row)) for row in value]


def _shape(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part


def _encode_arrow(value: Any, keep: Keep) -> Any:
    import pyarrow as pa

    if isinstance(value, pa.Table):
        tag = "$table"
    elif isinstance(value, pa.RecordBatch):
        tag = "$batch"
    else:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return {tag: keep(memoryview(sink.getvalue()), _ARROW_MEDIA_TYPE)}


def _encode_torch(value: Any, path: str, bulk: Bulk) -> Any:
    import torch

    if not isinstance(value, torch.Tensor):
        return None
    if type(value) is not torch.Tensor or value.layout is not torch.strided or value.is_quantized:
        raise CannotEncode(
            path,
            f"a {type(value).__qualname__} of layout {value.layout}; give a dense tensor (`.detach()`, `.to_dense()`)",
        )
    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    raw = memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")
    return {
        "$tensor": {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "data": bulk(raw)}
    }


def _decode_torch(data: Mapping[str, Any], bulk: Callable[[Any], bytes]) -> Any:
    import torch

    dtype = getattr(torch, data["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{data['dtype']} is no dtype")  # noqa: TRY004 - it is stored data that is wrong
    raw = bytearray(bulk(data["data"]))  # Tensors are writable, so they need memory of their own.
    flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    return flat.reshape(data["shape"])
