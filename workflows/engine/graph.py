"""A graph of bound steps, written down as data at once.

Only `get_args`, `get_kwargs` and `get_options` of a node are read, with an explicit stack: `DAGNode.execute` is
deprecated (Ray 2.60), and `apply_recursive` and pickled graphs die at a depth of some hundreds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workflows.engine.errors import DuplicateStep, GraphError, NotANode, NotImportable
from workflows.engine.step import Step, resolve
from workflows.log import JSON

STEP_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands among a step's arguments for the result of another step."""

    step: str


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a graph.

    Attributes:
        step: Its id: a path.
        function: `module:qualname` of the step, or of one of the engine's waits.
        arguments: `{"args": [...], "kwargs": {...}}`, each value encoded by itself, with `Ref` for nodes.
        needs: Ids of the steps whose results it takes, each once.
    """

    step: str
    function: str
    arguments: JSON
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps in an order in which they could run, the settings of their functions, and the step that gives the
    result.
    """

    nodes: tuple[Node, ...]
    functions: Mapping[str, Mapping[str, Any]]
    output: str

    def to_json(self) -> JSON:
        return {
            "nodes": [[n.step, n.function, n.arguments, list(n.needs)] for n in self.nodes],
            "functions": dict(self.functions),
            "output": self.output,
        }

    @classmethod
    def from_json(cls, data: JSON) -> Graph:
        nodes = tuple(
            Node(step, function, arguments, tuple(needs)) for step, function, arguments, needs in data["nodes"]
        )
        return cls(nodes, data["functions"], data["output"])


def is_node(value: Any) -> bool:
    """Whether a value is a `ray.dag` node, without importing Ray where nobody has."""
    dag = sys.modules.get("ray.dag")
    return dag is not None and isinstance(value, dag.DAGNode)


def capture(root: Any, encode: Callable[[Any], JSON], *, scope: str = "", where: str = "the graph") -> Graph:
    """Writes the graph below a node down as data.

    Args:
        root: The node that gives the result.
        encode: Encodes a value as JSON.
        scope: Path under which the ids stand, empty for a run's own graph.
        where: What gave the node, for messages.

    Raises:
        GraphError: Something in it is no bound step, or cannot be found by another process.
    """
    if not is_node(root):
        raise NotANode(where, f"{type(root).__name__}")
    ids: dict[int, str] = {}
    taken = _Names(scope)
    nodes: list[Node] = []
    functions: dict[str, Mapping[str, Any]] = {}
    for node in _topological(root):
        address, step_id = _identity(node)
        if address not in functions:
            functions[address] = _options(address)
        ids[id(node)] = taken.take(address, step_id)
        arguments = (tuple(node.get_args()), dict(node.get_kwargs()))
        needs = tuple(dict.fromkeys(ids[id(child)] for child in _children(arguments)))
        args, kwargs = _with_refs(arguments, ids)
        encoded = {
            "args": [encode(value) for value in args],
            "kwargs": {name: encode(value) for name, value in kwargs.items()},
        }
        nodes.append(Node(ids[id(node)], address, encoded, needs))
    return Graph(tuple(nodes), functions, ids[id(root)])


def _topological(root: Any) -> Iterator[Any]:
    """Every node once, after all that it takes; children in the order of the arguments."""
    done: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, expanded = stack.pop()
        if id(node) in done:
            continue
        if expanded:
            done.add(id(node))
            yield node
            continue
        stack.append((node, True))
        children = list(_children((node.get_args(), node.get_kwargs())))
        stack.extend((child, False) for child in reversed(children) if id(child) not in done)


def _children(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        value = stack.pop()
        if is_node(value):
            yield value
        elif type(value) in (list, tuple):
            stack.extend(reversed(value))
        elif type(value) is dict:
            stack.extend(reversed(value.values()))


def _with_refs(value: Any, ids: Mapping[int, str]) -> Any:
    if is_node(value):
        return Ref(ids[id(value)])
    if type(value) in (list, tuple):
        return type(value)(_with_refs(item, ids) for item in value)
    if type(value) is dict:
        return {key: _with_refs(item, ids) for key, item in value.items()}
    return value


def decoded_arguments(
    arguments: JSON, decode: Callable[[JSON], Any], results: Mapping[str, Any] | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a node. With results, these stand in the place of `Ref`s.

    Most arguments are a plain result of another step, so that is not decoded but looked up.
    """

    def value_of(data: JSON) -> Any:
        if results is not None and type(data) is dict and data.get("$type") == _REF:
            return results[data["step"]]
        return decode(data) if results is None else with_results(decode(data), results)

    return [value_of(data) for data in arguments["args"]], {
        name: value_of(data) for name, data in arguments["kwargs"].items()
    }


_REF = f"{Ref.__module__}:{Ref.__qualname__}"


def with_results(value: Any, results: Mapping[str, Any]) -> Any:
    """The arguments with every `Ref` replaced by the result it stands for."""
    if type(value) is Ref:
        return results[value.step]
    if type(value) in (list, tuple):
        return type(value)(with_results(item, results) for item in value)
    if type(value) is dict:
        return {key: with_results(item, results) for key, item in value.items()}
    return value


def _identity(node: Any) -> tuple[str, str]:
    address, mark, step_id = str(node.get_options().get("name") or "").partition("#")
    if not mark:
        raise NotANode("every node", f"{node!s:.200}, which was not made by a function decorated with @step")
    return address, step_id


def _options(address: str) -> Mapping[str, Any]:
    module = address.partition(":")[0]
    main = sys.modules["__main__"]
    file = str(getattr(main, "__file__", "") or "")
    if module not in sys.modules and file.endswith(f"{module.rpartition('.')[2]}.py"):
        # The script itself: importing it under its own name here would run it a second time.
        found: Any = main
        for name in address.partition(":")[2].split("."):
            found = getattr(found, name, None)
    else:
        found = resolve(address)
    if not isinstance(found, Step):
        raise NotImportable(address, f"there is {type(found).__name__}, not a function decorated with @step")
    return found.options()


class _Names:
    """Gives each node of a scope an id: the function's name, numbered from the second on."""

    def __init__(self, scope: str) -> None:
        self._prefix = f"{scope}/" if scope else ""
        self._used: set[str] = set()
        self._counts: dict[str, int] = {}

    def take(self, address: str, step_id: str) -> str:
        if step_id:
            if not STEP_ID.fullmatch(step_id):
                raise GraphError(f"step id {step_id!r} must match {STEP_ID.pattern}")
            if step_id in self._used:
                raise DuplicateStep(step_id)
            self._used.add(step_id)
            return self._prefix + step_id
        name = address.partition(":")[2].replace(".", "_")
        while True:
            self._counts[name] = count = self._counts.get(name, 0) + 1
            numbered = name if count == 1 else f"{name}-{count}"
            if numbered not in self._used:
                self._used.add(numbered)
                return self._prefix + numbered
