"""Values of Python as JSON, and back.

None, booleans, integers, finite floats, strings, lists and dicts with string keys stand for themselves. Everything
else is an object whose first key begins with `$` (a dict that has such a key of its own is wrapped as `$dict`):

    {"$type": "module:qualname", <field>: ...}      dataclass, pydantic model
    {"$enum": "module:qualname", "name": "RED"}     enum, flags
    {"$tuple": [...]}  {"$set": [...]}  {"$frozenset": [...]}  {"$ordered": [[key, value], ...]}
    {"$float": "nan"}  {"$complex": [re, im]}  {"$decimal": text}
    {"$datetime": iso}  {"$date": iso}  {"$time": iso}  {"$timedelta": [days, seconds, microseconds]}
    {"$path": text}  {"$uuid": hex}
    {"$bytes": base64 or blob}  {"$bytearray": base64 or blob}  {"$text": blob}
    {"$ndarray": ...}  {"$scalar": ...}  {"$tensor": ...}  {"$table": blob}  {"$batch": blob}    see `codec_arrays`
    {"$json": blob}                                 a value whose JSON is long
    {"$pickle": blob}                               anything else, and only where the caller allows it

Reading imports the module that a value names, but makes instances of dataclasses, pydantic models and enums only; it
never calls anything else.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import importlib
import json
import logging
import math
import pickle as pickling
import sys
import types
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PosixPath
from typing import Any, TypeAlias, cast

from workflows.log import codec_arrays
from workflows.log.blobs import BlobRef, Blobs
from workflows.log.errors import CannotDecode, CannotEncode
from workflows.log.store import Buffer

JSON: TypeAlias = Any
"""None, bool, int, float, str, list of these, dict of these by string."""

INLINE_MAX_BYTES = 16_384
MAX_DEPTH = 90
"""Less than what a record allows."""

_JSON_MEDIA_TYPE = "application/json"
_logger = logging.getLogger(__name__)


def encode(value: object, blobs: Blobs, *, pickle: bool = False, inline_max_bytes: int = INLINE_MAX_BYTES) -> JSON:
    """The JSON form of a value; what is long goes into blobs, which are durable when this returns.

    Args:
        value: See the module's docstring.
        blobs: Takes what is long.
        pickle: Objects without a form of their own are pickled. Only for values that the same code reads again.
        inline_max_bytes: Longest JSON that is returned itself.

    Raises:
        CannotEncode: Names the place in the value, its type, and what to do.
    """
    encoder = _Encoder(blobs, pickle, inline_max_bytes)
    encoded = encoder.encode(value, "value", 0)
    if type(encoded) in (str, int, float, bool, types.NoneType):
        return encoded
    text = json.dumps(encoded, separators=(",", ":"), allow_nan=False)
    if len(text) <= inline_max_bytes:
        return encoded
    return {"$json": encoder.keep(text.encode("ascii"), _JSON_MEDIA_TYPE)}


def decode(data: JSON, blobs: Blobs, *, pickle: bool = False) -> Any:
    """The value of a JSON form. Arrays and tables come back read-only, sharing the memory that was read.

    Args:
        data: What `encode` gave.
        blobs: Holds what is long.
        pickle: Also read pickled objects. Reading one runs code of whoever wrote it.

    Raises:
        CannotDecode: The form is unknown, or the class it names is not there or does not take it.
        NotFound: A blob is gone.
        CorruptBlob: A blob is damaged.
    """
    return _Decoder(blobs, pickle).decode(data, "value")


class _Encoder:
    def __init__(self, blobs: Blobs, pickle: bool, inline_max_bytes: int) -> None:
        self._blobs = blobs
        self._pickle = pickle
        self._inline_max_bytes = inline_max_bytes
        # By exact type: a subclass would come back as its base.
        self._writers: dict[type, Callable[[Any, str, int], JSON]] = {
            types.NoneType: lambda value, _path, _depth: value,
            bool: lambda value, _path, _depth: value,
            int: lambda value, _path, _depth: value,
            float: lambda value, _path, _depth: _number(value),
            str: self._text,
            list: self._items,
            tuple: lambda value, path, depth: {"$tuple": self._items(value, path, depth)},
            dict: self._dict,
            types.MappingProxyType: self._dict,
            OrderedDict: self._ordered,
            set: lambda value, path, depth: {"$set": self._unordered(value, path, depth)},
            frozenset: lambda value, path, depth: {"$frozenset": self._unordered(value, path, depth)},
            bytes: lambda value, _path, _depth: {"$bytes": self.bulk(value)},
            bytearray: lambda value, _path, _depth: {"$bytearray": self.bulk(value)},
            dt.datetime: lambda value, _path, _depth: {"$datetime": value.isoformat()},
            dt.date: lambda value, _path, _depth: {"$date": value.isoformat()},
            dt.time: lambda value, _path, _depth: {"$time": value.isoformat()},
            dt.timedelta: lambda value, _path, _depth: {"$timedelta": [value.days, value.seconds, value.microseconds]},
            PosixPath: lambda value, _path, _depth: {"$path": str(value)},
            uuid.UUID: lambda value, _path, _depth: {"$uuid": value.hex},
            decimal.Decimal: lambda value, _path, _depth: {"$decimal": str(value)},
            complex: lambda value, _path, _depth: {"$complex": [_number(value.real), _number(value.imag)]},
        }

    def encode(self, value: object, path: str, depth: int) -> JSON:
        if depth > MAX_DEPTH:
            raise CannotEncode(path, f"it is nested deeper than {MAX_DEPTH}, or contains itself")
        writer = self._writers.get(type(value))
        if writer is not None:
            return writer(value, path, depth)
        if isinstance(value, enum.Enum):
            return {"$enum": _name_of(type(value), path), "name": value.name}
        if (fields := _fields_of(value)) is not None:
            return self._typed(value, fields, path, depth)
        if (array := codec_arrays.encode_array(value, path, self.bulk, self.keep)) is not None:
            return array
        return self._unknown(value, path)

    def keep(self, data: Buffer, media_type: str) -> JSON:
        """Bytes as a blob."""
        ref = self._blobs.put(data, media_type)
        return {"sha256": ref.sha256, "size": ref.size, "media_type": ref.media_type}

    def bulk(self, data: Buffer) -> JSON:
        """Bytes, inline in base64 or as a blob."""
        view = memoryview(data).cast("B")
        if len(view) * 4 <= self._inline_max_bytes * 3:
            return base64.b64encode(view).decode("ascii")
        return self.keep(view, "application/octet-stream")

    def _text(self, value: str, _path: str, _depth: int) -> JSON:
        # A character takes up to 12 bytes of ASCII JSON, so short text needs no second look.
        if len(value) * 12 <= self._inline_max_bytes or len(json.dumps(value)) <= self._inline_max_bytes:
            return value
        return {"$text": self.keep(value.encode("utf-8", "surrogatepass"), "text/plain; charset=utf-8")}

    def _items(self, items: list[Any] | tuple[Any, ...], path: str, depth: int) -> list[JSON]:
        return [self.encode(item, f"{path}[{number}]", depth + 1) for number, item in enumerate(items)]

    def _unordered(self, items: set[Any] | frozenset[Any], path: str, depth: int) -> list[JSON]:
        # Sorted by their JSON, so that equal sets have equal forms.
        return sorted(self._items(list(items), path, depth), key=lambda item: json.dumps(item, sort_keys=True))

    def _dict(self, value: Mapping[Any, Any], path: str, depth: int) -> JSON:
        escaped = False
        encoded = {}
        for key, item in value.items():
            if type(key) is not str:
                raise CannotEncode(path, f"the dict has the key {key!r} of type {type(key).__name__}; keys are strings")
            escaped = escaped or key.startswith("$")
            encoded[key] = self.encode(item, f"{path}[{key!r}]", depth + 1)
        return {"$dict": encoded} if escaped else encoded

    def _ordered(self, value: OrderedDict[Any, Any], path: str, depth: int) -> JSON:
        pairs = []
        for key, item in value.items():
            place = f"{path}[{key!r}]"
            pairs.append([self.encode(key, place, depth + 1), self.encode(item, place, depth + 1)])
        return {"$ordered": pairs}

    def _typed(self, value: object, fields: Mapping[str, object], path: str, depth: int) -> JSON:
        encoded: dict[str, JSON] = {"$type": _name_of(type(value), path)}
        for name, item in fields.items():
            encoded[name] = self.encode(item, f"{path}.{name}", depth + 1)
        return encoded

    def _unknown(self, value: object, path: str) -> JSON:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if not self._pickle:
            advice = "use a dataclass, a pydantic model, an array or a file in a blob, or allow pickle for this step"
            raise CannotEncode(path, f"a {name} has no durable form; {advice}")
        try:
            data = pickling.dumps(value, protocol=5)
        except (pickling.PicklingError, TypeError, AttributeError, RecursionError) as error:
            raise CannotEncode(path, f"a {name} does not pickle: {error}") from error
        return {"$pickle": self.keep(data, "application/x-python-pickle")}


class _Decoder:
    def __init__(self, blobs: Blobs, pickle: bool) -> None:
        self._blobs = blobs
        self._pickle = pickle
        self._readers: dict[str, Callable[[Any, str], Any]] = {
            "$tuple": lambda items, path: tuple(self._items(items, path)),
            "$set": lambda items, path: set(self._items(items, path)),
            "$frozenset": lambda items, path: frozenset(self._items(items, path)),
            "$ordered": lambda pairs, path: OrderedDict((self.decode(k, path), self.decode(v, path)) for k, v in pairs),
            "$dict": lambda items, path: {key: self.decode(item, f"{path}[{key!r}]") for key, item in items.items()},
            "$float": lambda text, _: float(text),
            "$complex": lambda pair, path: complex(*self._items(pair, path)),
            "$datetime": lambda text, _: dt.datetime.fromisoformat(text),
            "$date": lambda text, _: dt.date.fromisoformat(text),
            "$time": lambda text, _: dt.time.fromisoformat(text),
            "$timedelta": lambda parts, _: dt.timedelta(*parts),
            "$path": lambda text, _: Path(text),
            "$uuid": lambda text, _: uuid.UUID(text),
            "$decimal": lambda text, _: decimal.Decimal(text),
            "$bytes": lambda data, _: self.bulk(data),
            "$bytearray": lambda data, _: bytearray(self.bulk(data)),
            "$text": lambda ref, _: self.bulk(ref).decode("utf-8", "surrogatepass"),
            "$json": lambda ref, path: self.decode(json.loads(self.bulk(ref)), path),
            "$pickle": self._unpickle,
        }

    def bulk(self, data: JSON) -> bytes:
        if isinstance(data, str):
            return base64.b64decode(data, validate=True)
        return self._blobs.get(BlobRef(data["sha256"], data["size"], data["media_type"]))

    def decode(self, data: JSON, path: str) -> Any:
        if isinstance(data, list):
            return self._items(data, path)
        if not isinstance(data, Mapping):
            return data
        tag = next(iter(data), "")
        if not tag.startswith("$"):
            return {key: self.decode(item, f"{path}[{key!r}]") for key, item in data.items()}
        try:
            return self._tagged(tag, data, path)
        except (ValueError, TypeError, KeyError, AttributeError, decimal.InvalidOperation) as error:
            raise CannotDecode(path, f"the {tag} there cannot be read: {error}") from error

    def _tagged(self, tag: str, data: Mapping[str, JSON], path: str) -> Any:
        if tag == "$type":
            return self._typed(data, path)
        if tag == "$enum":
            return _decode_enum(data, path)
        if tag in self._readers:
            return self._readers[tag](data[tag], path)
        if tag in codec_arrays.TAGS:
            return codec_arrays.decode_array(tag, data[tag], self.bulk)
        raise CannotDecode(path, f"the form {tag!r} is unknown; a newer version may have written it")

    def _items(self, items: list[JSON], path: str) -> list[Any]:
        return [self.decode(item, f"{path}[{number}]") for number, item in enumerate(items)]

    def _typed(self, data: Mapping[str, JSON], path: str) -> Any:
        name = data["$type"]
        cls: Any = _class_of(name, path)
        fields = {key: self.decode(item, f"{path}.{key}") for key, item in data.items() if key != "$type"}
        if _is_model(cls):
            return cls.model_validate(fields, by_name=True)
        if not dataclasses.is_dataclass(cls):
            raise CannotDecode(path, f"{name} is neither a dataclass nor a pydantic model")
        known = {field.name for field in dataclasses.fields(cls) if field.init}
        if dropped := sorted(set(fields) - known):
            # The field was removed from the class since; the rest of an old record stays readable.
            _logger.warning("%s: %s has no fields %s any more", path, name, dropped)
        make = cast(Callable[..., Any], cls)
        return make(**{key: item for key, item in fields.items() if key in known})

    def _unpickle(self, ref: JSON, path: str) -> Any:
        if not self._pickle:
            raise CannotDecode(path, "it is pickled, and reading pickles is not allowed here")
        return pickling.loads(self.bulk(ref))  # noqa: S301 - the caller allowed it


def _number(value: float) -> JSON:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _decode_enum(data: Mapping[str, JSON], path: str) -> Any:
    cls: Any = _class_of(data["$enum"], path)
    if not issubclass(cls, enum.Enum):
        raise CannotDecode(path, f"{data['$enum']} is no enum")
    if not issubclass(cls, enum.Flag):
        return cls[data["name"]]
    # A combination of flags is named by its parts: "READ|WRITE".
    value = cls(0)
    for part in filter(None, (data["name"] or "").split("|")):
        value |= cls[part]
    return value


def _fields_of(value: Any) -> Mapping[str, object] | None:
    """What an instance of a dataclass or of a pydantic model is made from; None for anything else."""
    cls: Any = type(value)
    if _is_model(cls):
        return {name: getattr(value, name) for name in cls.model_fields} | (value.model_extra or {})
    if dataclasses.is_dataclass(cls):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(cls) if field.init}
    return None


def _is_model(cls: Any) -> bool:
    # A model can exist only where pydantic has been imported; reading one imports the module that defines it first.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


def _name_of(cls: type, path: str) -> str:
    """`module:qualname` of a class that can be found again by it."""
    module = cls.__module__
    if module == "__main__":
        # `python -m package.module` runs under another name than the one others import it by.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise CannotEncode(
                path, f"{cls.__qualname__} is defined in a script; move it to a module that can be imported"
            )
        return f"{spec.name}:{cls.__qualname__}"
    name = f"{module}:{cls.__qualname__}"
    try:
        found = _class_of(name, path)
    except CannotDecode as error:
        raise CannotEncode(
            path, f"{name} cannot be found again: {error.reason}; define the class at the top of a module"
        ) from error
    if found is not cls:
        raise CannotEncode(path, f"{name} is the name of another class")
    return name


def _class_of(name: str, path: str) -> Any:
    module, _, qualname = name.partition(":")
    if not qualname or not all(part.isidentifier() for part in (*module.split("."), *qualname.split("."))):
        raise CannotDecode(path, f"{name!r} is no module:class")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in qualname.split("."):
            found = vars(found)[part]
    except (ImportError, KeyError, TypeError) as error:
        raise CannotDecode(path, f"there is no class {name}: {error}") from error
    if not isinstance(found, type) or not (
        dataclasses.is_dataclass(found) or _is_model(found) or issubclass(found, enum.Enum)
    ):
        raise CannotDecode(path, f"{name} is no dataclass, pydantic model or enum")
    return found
