from __future__ import annotations

import datetime as dt
import decimal
import json
import logging
import math
import subprocess
import sys
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.log.codec_examples import Access, Branch, Color, Leaf, Level, Open, Plain, Settings
from tests.workflows.log.counting import MemoryStore
from workflows.log import BlobRef, Blobs, CannotDecode, CannotEncode, CorruptBlob, NotFound, TreeRef, decode, encode

REPOSITORY = Path(__file__).resolve().parents[3]
LEAF = Leaf(name="a", scores=(1.0, math.inf), color=Color.GREEN)


@pytest.fixture
def blobs() -> Blobs:
    return Blobs(MemoryStore())


def there_and_back(value: object, blobs: Blobs, **options: Any) -> Any:
    """Through JSON text, as a record would carry it."""
    text = json.dumps(encode(value, blobs, **options), allow_nan=False)
    return decode(json.loads(text), blobs, pickle=options.get("pickle", False))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**70), 1.5, -0.0, "", "text", "\ud800 \0 ä", [], {}, (), [1, [2, (3, {"a": (4,)})]],
        {"$type": "no:class", "x": 1}, {"$dict": {"$dict": 1}}, {"a": {"$tuple": [1]}},
        {1, "a", (2, 3)}, frozenset({1.5}), OrderedDict([(("b", 1), 1), ("a", (2,))]),
        b"", b"\0\xff", bytearray(b"abc"), 1 + 2j, decimal.Decimal("1.10"), uuid.UUID(int=5),
        dt.datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=dt.UTC), dt.datetime(2026, 1, 1), dt.date(2026, 1, 1),  # noqa: DTZ001
        dt.time(1, 2, 3), dt.timedelta(days=-1, microseconds=1), Path("a/b"), Path("/"),
        Color.RED, Level.HIGH, Access.READ, Access.READ | Access.WRITE, Access(0), [Color.RED, Level.LOW],
        LEAF, Branch(leaves=(LEAF, LEAF), by_name={"x": LEAF}, extra=[None]), Branch.Inner(3),
        Settings(name="a", leaf=LEAF, parent=Settings(name="b", leaf=LEAF)), Open(name="a", other=(1, 2)),
        BlobRef("ab", 1, "text/plain"), TreeRef("ab", 1, 2),
    ],
    ids=repr,
)  # fmt: skip
def test_values_come_back_equal_and_of_the_same_type(value: object, blobs: Blobs) -> None:
    for inline_max_bytes in (16_384, 0):
        back = there_and_back(value, blobs, inline_max_bytes=inline_max_bytes)
        assert back == value
        assert type(back) is type(value)
        assert repr(back) == repr(value) or isinstance(value, set | frozenset)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_json_lacks_survive(value: float, blobs: Blobs) -> None:
    assert repr(there_and_back([value, {"a": value}], blobs)) == repr([value, {"a": value}])


def test_a_read_only_mapping_comes_back_as_a_dict(blobs: Blobs) -> None:
    assert there_and_back(MappingProxyType({"a": (1,)}), blobs) == {"a": (1,)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.sampled_from(["$type", "$tuple"]), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(value=json_values, inline_max_bytes=st.sampled_from([0, 20, 16_384]))
def test_any_nesting_of_plain_values_comes_back(value: object, inline_max_bytes: int) -> None:
    assert repr(there_and_back(value, Blobs(MemoryStore()), inline_max_bytes=inline_max_bytes)) == repr(value)


def test_the_form_can_be_read_by_people(blobs: Blobs) -> None:
    assert encode({"leaf": LEAF}, blobs) == {
        "leaf": {
            "$type": "tests.workflows.log.codec_examples:Leaf",
            "name": "a",
            "scores": {"$tuple": [1.0, {"$float": "inf"}]},
            "color": {"$enum": "tests.workflows.log.codec_examples:Color", "name": "GREEN"},
        }
    }


def test_what_is_long_goes_into_blobs(blobs: Blobs) -> None:
    for value in ("x" * 50_000, b"x" * 50_000, list(range(50_000)), {"a": ["y" * 100] * 1_000}):
        encoded = encode(value, blobs)
        assert len(json.dumps(encoded)) < 300
        assert decode(encoded, blobs) == value


def test_what_is_short_touches_no_store(blobs: Blobs) -> None:
    encode({"a": LEAF, "b": b"xyz", "c": np.arange(3)}, blobs)

    assert list(blobs.store.list("")) == []


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": {1: 2}}, r"value\['a'\]", "key 1 of type int"),
        ([Plain(1)], r"value\[0\]", "Plain has no durable form"),
        ([lambda: 1], r"value\[0\]", "function has no durable form"),
        (object(), "value", "allow pickle"),
        (np.array([object()]), "value", "Python objects"),
        (Branch(leaves=(), by_name={}, extra={"f": print}), r"value\.extra\['f'\]", "no durable form"),
    ],
)
def test_what_has_no_durable_form_is_refused_with_its_place(
    value: object, path: str, reason: str, blobs: Blobs
) -> None:
    with pytest.raises(CannotEncode, match=f"{path}: .*{reason}"):
        encode(value, blobs)


def test_a_class_that_cannot_be_found_again_is_refused(blobs: Blobs) -> None:
    @dataclass
    class Local:
        x: int

    with pytest.raises(CannotEncode, match="top of a module"):
        encode(Local(1), blobs)


def test_a_value_that_contains_itself_is_refused(blobs: Blobs) -> None:
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(CannotEncode, match="contains itself"):
        encode(loop, blobs)


def test_pickle_is_used_only_where_it_is_asked_for_on_both_sides(blobs: Blobs) -> None:
    encoded = encode({"a": Plain(5)}, blobs, pickle=True)

    assert decode(encoded, blobs, pickle=True) == {"a": Plain(5)}
    with pytest.raises(CannotDecode, match="not allowed"):
        decode(encoded, blobs)
    with pytest.raises(CannotEncode, match="does not pickle"):
        encode([lambda: 1], blobs, pickle=True)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"$type": "os:system"}, "is no dataclass"),
        ({"$type": "subprocess:Popen", "args": ["true"]}, "is no dataclass"),
        ({"$type": "tests.workflows.log.codec_examples:dangerous"}, "is no dataclass"),
        ({"$type": "tests.workflows.log.codec_examples:Plain", "value": 1}, "is no dataclass"),
        ({"$type": "tests.workflows.log.codec_examples:Gone"}, "there is no class"),
        ({"$type": "no_such_module_anywhere:X"}, "there is no class"),
        ({"$type": "os;system:X"}, "no module:class"),
        ({"$type": "os"}, "no module:class"),
        ({"$type": 5}, "cannot be read"),
        ({"$type": "tests.workflows.log.codec_examples:Color"}, "neither a dataclass"),
        ({"$type": "tests.workflows.log.codec_examples:Leaf"}, "cannot be read"),
        ({"$type": "tests.workflows.log.codec_examples:Settings", "name": 5}, "cannot be read"),
        ({"$enum": "tests.workflows.log.codec_examples:Color", "name": "BLUE"}, "cannot be read"),
        ({"$enum": "tests.workflows.log.codec_examples:Leaf", "name": "RED"}, "no enum"),
        ({"$new-form": 1}, "form .* is unknown"),
        ({"$bytes": "!"}, "cannot be read"),
        ({"$datetime": "soon"}, "cannot be read"),
        ({"$ndarray": {"dtype": "|O", "shape": [1], "order": "C", "data": ""}}, "cannot be read"),
        ({"$tensor": {"dtype": "load", "shape": [1], "data": ""}}, "no dtype"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused_with_its_place(form: object, reason: str, blobs: Blobs) -> None:
    with pytest.raises(CannotDecode, match=rf"value\['a'\]\[0\]: .*{reason}"):
        decode({"a": [form]}, blobs)


def test_a_field_that_is_new_takes_its_default_and_one_that_is_gone_is_told(
    blobs: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    old = {"$type": "tests.workflows.log.codec_examples:Leaf", "name": "a", "dropped": 1}

    with caplog.at_level(logging.WARNING):
        assert decode(old, blobs) == Leaf(name="a")
    assert "dropped" in caplog.text


def test_a_damaged_or_missing_blob_is_told(blobs: Blobs) -> None:
    encoded = encode("x" * 50_000, blobs)
    key = blobs.key(encoded["$text"]["sha256"])
    blobs.store.put(key, b"y" * 50_000)
    with pytest.raises(CorruptBlob):
        decode(encoded, blobs)
    blobs.store.delete(key)
    with pytest.raises(NotFound):
        decode(encoded, blobs)


STRUCTURED = np.array([(1, 2.5, b"x", [1, 2])], dtype=[("a", "<i4"), ("b", "<f8"), ("c", "S3"), ("d", "<i2", (2,))])
ALIGNED = np.zeros(3, dtype=np.dtype([("a", "i1"), ("b", "i8")], align=True))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10), np.zeros((0, 3)), np.array(5.0), np.arange(12).reshape(3, 4).T,
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::3], np.array([True, False]), np.array(["a", "bcd"]),
        np.array([b"a"]), np.array([1 + 2j]),
        np.array(["2026-01-01"], dtype="datetime64[D]"), np.array([1, 2], dtype=">i4"),
        np.array([np.nan, np.inf], dtype=np.float16), STRUCTURED, ALIGNED, np.zeros((2, 3, 4))[:, 1],
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
@pytest.mark.parametrize("inline_max_bytes", [16_384, 0])
def test_arrays_come_back(array: Any, inline_max_bytes: int, blobs: Blobs) -> None:
    back = there_and_back({"array": array}, blobs, inline_max_bytes=inline_max_bytes)["array"]

    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert not back.flags.writeable


@pytest.mark.parametrize(
    "scalar", [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("a"), np.datetime64("2026-01-01")], ids=repr
)
def test_numpy_scalars_keep_their_type(scalar: Any, blobs: Blobs) -> None:
    back = there_and_back([scalar], blobs)[0]

    assert (back, type(back)) == (scalar, type(scalar))


def test_a_big_array_is_not_copied_on_its_way_to_the_store() -> None:
    class KeepingStore(MemoryStore):
        given: Any = None

        def put(self, key: str, data: Any) -> None:
            self.given = data

    store = KeepingStore()
    array = np.arange(1_000_000)
    encode(array, Blobs(store))

    assert np.shares_memory(np.frombuffer(store.given, dtype=np.uint8), array)


def test_arrow_comes_back(blobs: Blobs) -> None:
    table = pa.table({"text": ["a", None], "n": pa.array([1, 2], pa.int8())}, metadata={"k": "v"})

    for value in (table, table.to_batches()[0], table.slice(0, 0)):
        back = there_and_back([value], blobs)[0]
        assert type(back) is type(value)
        assert back.equals(value)
        assert back.schema.equals(value.schema, check_metadata=True)


def test_tensors_come_back(blobs: Blobs) -> None:
    torch = pytest.importorskip("torch")
    tensors = [
        torch.arange(6).reshape(2, 3),
        torch.randn(300, 70).to(torch.bfloat16),
        torch.randn(3, 4).T,
        torch.zeros(0, 2),
        torch.tensor(1.5, requires_grad=True),
        torch.tensor([True]),
        torch.tensor([1 + 2j]),
    ]
    for inline_max_bytes in (16_384, 0):
        for tensor, back in zip(
            tensors, there_and_back(tensors, blobs, inline_max_bytes=inline_max_bytes), strict=True
        ):
            assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(back, tensor.detach())
            back.zero_()
    with pytest.raises(CannotEncode, match="detach"):
        encode([torch.nn.Parameter(torch.zeros(1))], blobs)
    with pytest.raises(CannotEncode, match="to_dense"):
        encode([torch.zeros(2, 2).to_sparse()], blobs)
    model = torch.nn.Linear(2, 2)
    state = there_and_back(model.state_dict(), blobs)
    model.load_state_dict(state)


def test_big_libraries_are_not_imported_for_small_values() -> None:
    program = (
        "import sys; from workflows.log import *; from tests.workflows.log.counting import MemoryStore;"
        "b = Blobs(MemoryStore());"
        "assert decode(encode({'a': (1, b'x')}, b), b) == {'a': (1, b'x')};"
        "print([name for name in ('numpy', 'pyarrow', 'torch', 'pydantic', 'obstore', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_class_of_a_module_that_runs_as_a_program_is_named_by_the_module(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "from dataclasses import dataclass\n"
        "from tests.workflows.log.counting import MemoryStore\n"
        "from workflows.log import Blobs, CannotEncode, encode\n"
        "@dataclass\nclass Thing:\n    x: int\n"
        "try:\n    print(encode(Thing(1), Blobs(MemoryStore())))\nexcept CannotEncode as error:\n    print(error)\n"
    )
    paths = {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}"}
    as_module = subprocess.run([sys.executable, "-m", "program"], env=paths, capture_output=True, text=True, check=True)
    as_script = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")], env=paths, capture_output=True, text=True, check=True
    )

    assert as_module.stdout.strip() == "{'$type': 'program:Thing', 'x': 1}"
    assert "defined in a script" in as_script.stdout
