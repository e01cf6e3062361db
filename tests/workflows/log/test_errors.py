from __future__ import annotations

import inspect
import pickle

import pytest

from workflows.log import errors

EXAMPLES: list[errors.LogError] = [
    errors.LogError("text"),
    errors.Refused("text"),
    errors.Fenced("runs/a", 1, 2),
    errors.Closed("runs/a", "cancelled"),
    errors.InvalidRecord("runs/a", "started", "too large"),
    errors.CorruptRecord("runs/a", 7, "torn"),
    errors.UnsupportedFormat("runs/a", 7, 99, (1,)),
    errors.CodecError("text"),
    errors.CannotEncode("value.x", "no form"),
    errors.CannotDecode("value.x", "no class"),
    errors.CorruptBlob("ab", "cd"),
    errors.StoreError("text"),
    errors.AlreadyExists("file:///a", "k"),
    errors.NotFound("file:///a", "k"),
    errors.InvalidKey("../a", "leads out"),
    errors.InvalidUri("ftp://a", "unknown"),
    errors.LyingStore("s3://a"),
    errors.NoHardLinks("file:///a"),
    errors.StoreFull("file:///a", "k", "ENOSPC"),
    errors.StoreDenied("s3://a", "k", "403"),
    errors.StoreRejected("s3://a", "k", "400"),
    errors.StoreUnavailable("s3://a", "k", "503"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes(error: errors.LogError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert (str(copy), copy.__dict__) == (str(error), error.__dict__)


def test_every_error_stands_in_the_tree_and_among_the_examples() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]

    assert {type(error) for error in EXAMPLES} == set(classes)
    assert all(f" {cls.__name__} " in f"{errors.__doc__} ".replace("\n", " ") for cls in classes)


def test_errors_of_other_packages_may_take_any_arguments() -> None:
    copy = pickle.loads(pickle.dumps(OutOfStock("apples", wanted=3)))

    assert (copy.item, copy.wanted, str(copy)) == ("apples", 3, "3 apples are wanted")


class OutOfStock(errors.Refused):
    def __init__(self, item: str, *, wanted: int) -> None:
        super().__init__(f"{wanted} {item} are wanted")
        self.item = item
        self.wanted = wanted
