from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import workflows.engine
from tests.workflows.engine import graphs
from workflows.engine import DuplicateStep, GraphError, NotANode, NotImportable, approval, sleep, step
from workflows.engine.graph import Graph, capture, decoded_arguments
from workflows.log import Blobs, decode, encode, open_store


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(open_store(str(tmp_path)))


def captured(node: Any, blobs: Blobs, **options: Any) -> Graph:
    return capture(node, lambda value: encode(value, blobs), **options)


def test_steps_are_named_after_their_functions_and_numbered(blobs: Blobs) -> None:
    graph = captured(graphs.total.bind([graphs.one.bind("a"), graphs.one.bind("b"), graphs.one.bind("c")]), blobs)
    assert [node.step for node in graph.nodes] == ["one", "one-2", "one-3", "total"]
    assert graph.output == "total"
    assert graph.nodes[-1].needs == ("one", "one-2", "one-3")


def test_a_node_used_twice_is_one_step(blobs: Blobs) -> None:
    shared = graphs.one.bind("a")
    graph = captured(graphs.add.bind(shared, shared, "a", "x"), blobs)
    assert [node.step for node in graph.nodes] == ["one", "add"]
    assert graph.nodes[1].needs == ("one",)


def test_nodes_stand_at_top_level_and_in_lists_tuples_and_dicts(blobs: Blobs) -> None:
    one = graphs.one.named
    values = [one("a").bind("x"), (one("b").bind("x"), {"deep": [one("c").bind("x"), 5]})]
    graph = captured(graphs.total.bind(values), blobs)
    assert graph.nodes[-1].needs == ("a", "b", "c")
    args, _ = decoded_arguments(graph.nodes[-1].arguments, lambda data: decode(data, blobs), {"a": 1, "b": 2, "c": 3})
    assert args == [[1, (2, {"deep": [3, 5]})]]


def test_a_chain_of_ten_thousand_steps_is_written_down_and_read_again(blobs: Blobs) -> None:
    node: Any = 0
    for _ in range(10_000):
        node = graphs.add.bind(node, 1, "folder", "name")
    graph = captured(node, blobs)
    assert len(graph.nodes) == 10_000
    assert graph.output == "add-10000"
    assert Graph.from_json(graph.to_json()) == graph


def test_ids_of_a_continuation_stand_below_its_step(blobs: Blobs) -> None:
    graph = captured(graphs.total.bind([graphs.one.bind("a")]), blobs, scope="deploy/3")
    assert [node.step for node in graph.nodes] == ["deploy/3/one", "deploy/3/total"]


def test_what_is_no_bound_step_is_refused(blobs: Blobs) -> None:
    import ray

    with pytest.raises(NotANode, match="int"):
        captured(5, blobs)
    plain = ray.remote(graphs.seen).bind(1, 2)
    with pytest.raises(NotANode, match="@step"):
        captured(graphs.total.bind([plain]), blobs)


def test_one_name_for_two_steps_is_refused(blobs: Blobs) -> None:
    with pytest.raises(DuplicateStep, match="same"):
        captured(graphs.total.bind([graphs.one.named("same").bind("a"), graphs.one.named("same").bind("b")]), blobs)
    with pytest.raises(GraphError, match="a/b"):
        captured(graphs.one.named("a/b").bind("x"), blobs)


def test_a_step_hidden_behind_another_name_is_refused(blobs: Blobs) -> None:
    hidden = step(graphs.seen)  # the module's `seen` stays a plain function
    with pytest.raises(NotImportable, match="graphs:seen"):
        captured(hidden.bind("a", "b"), blobs)


def test_waits_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="duration_s"):
        sleep(-1)
    with pytest.raises(ValueError, match="must match"):
        approval("a b")


def test_only_these_parts_of_ray_are_used() -> None:
    """A new release of Ray is checked against this list."""
    used = set()
    for file in Path(workflows.engine.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray"):
                used |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute) and (name := _dotted(node)).startswith("ray."):
                used.add(name)
            elif isinstance(node, ast.Attribute) and _dotted(node).startswith("node.get_"):
                used.add(f"DAGNode.{node.attr}")
    assert used == {
        "ray.dag.FunctionNode",
        "DAGNode.get_args",
        "DAGNode.get_kwargs",
        "DAGNode.get_options",
        "ray.init",
        "ray.is_initialized",
        "ray.job_config",
        "ray.job_config.JobConfig",
        "ray.remote",
        "ray.wait",
        "ray.get",
        "ray.cancel",
        "ray.exceptions",
        "ray.exceptions.RayError",
        "ray.exceptions.GetTimeoutError",
        "ray.exceptions.OutOfMemoryError",
        # For a Ray that was imported before its head was known; see `head._adopt`.
        "ray._private.ray_constants",
        "ray._raylet.AuthenticationTokenLoader",
        "ray._raylet.Config",
    }


def test_a_bound_step_is_an_ordinary_node_of_ray() -> None:
    from ray.dag import FunctionNode

    node = graphs.add.bind(1, 2, "folder", name="x")
    assert type(node) is FunctionNode
    assert (node.get_args(), node.get_kwargs()) == ((1, 2, "folder"), {"name": "x"})
    assert node.get_options() == {"name": "tests.workflows.engine.graphs:add#"}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
