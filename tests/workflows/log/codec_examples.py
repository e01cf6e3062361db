"""Classes that the tests of the codec store: they must stand in a module that can be imported."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    name: str
    scores: tuple[float, ...] = ()
    color: Color = Color.RED


@dataclass(frozen=True)
class Branch:
    leaves: tuple[Leaf, ...]
    by_name: Mapping[str, Leaf]
    extra: Any = None
    length: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", len(self.leaves))

    @dataclass(frozen=True)
    class Inner:
        value: int


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    leaf: Leaf
    parent: Settings | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Plain:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


def dangerous(**_: object) -> None:
    raise AssertionError("the codec called a function")
