from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest

from tests.workflows.engine import graphs
from workflows.engine import NotImportable, Resources, Retry, Timeouts, step
from workflows.engine import errors as engine_errors
from workflows.engine.step import address_of, backoff_s, resolve_step


def test_a_step_is_still_its_function() -> None:
    assert graphs.total([1, 2]) == 3
    assert graphs.total.__name__ == "total"
    assert resolve_step("tests.workflows.engine.graphs:total") is graphs.total


def test_closures_and_lambdas_are_refused_by_name() -> None:
    def inner() -> None: ...

    with pytest.raises(NotImportable, match=r"test_closures.*inner.*closure"):
        step(inner)
    with pytest.raises(NotImportable, match="lambda"):
        step(lambda: 1)
    with pytest.raises(NotImportable, match="it is not a function"):
        address_of(functools.partial(print))


def test_arguments_that_do_not_fit_are_refused_when_bound() -> None:
    with pytest.raises(TypeError, match="missing"):
        graphs.add.bind(1)
    with pytest.raises(TypeError, match="unexpected"):
        graphs.one.bind("x", color="red")


def test_what_is_no_step_is_not_resolved() -> None:
    with pytest.raises(NotImportable, match="not a function decorated"):
        resolve_step("tests.workflows.engine.graphs:seen")
    with pytest.raises(NotImportable, match="nowhere"):
        resolve_step("tests.workflows.engine.graphs:nowhere")


def test_delays_grow_to_the_cap_and_jitter_only_shortens_them() -> None:
    options = {"base_s": 1.0, "factor": 2.0, "cap_s": 5.0, "jitter": 0.5}
    assert [backoff_s(options, n, 0.0) for n in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]
    assert backoff_s(options, 3, 1.0) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(attempts=0), "attempts is 0"),
        (lambda: Retry(jitter=2), "jitter"),
        (lambda: Timeouts(attempt_s=0), "attempt_s is 0"),
        (lambda: Resources(num_cpus=1, coordinator=True), "coordinator"),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_retryable_and_terminal_types_are_told_apart() -> None:
    retries = graphs.flaky.retries
    assert retries.worth_another(graphs.Flaky())
    assert not retries.worth_another(graphs.Hopeless())
    assert not retries.worth_another(KeyError())


def test_every_error_pickles() -> None:
    examples: list[engine_errors.EngineError] = [
        engine_errors.NotANode("here", "int"),
        engine_errors.NotImportable("m:f", "why"),
        engine_errors.DuplicateStep("a"),
        engine_errors.InvalidRunId("a/b", "rule"),
        engine_errors.RunNotFound("a", "file:///s"),
        engine_errors.StepNotFound("a", "b", ["c"]),
        engine_errors.NoOutput("a", "b", "failed"),
        engine_errors.RunMismatch("a", ["x: 1 -> 2"]),
        engine_errors.CodeChanged("a", ["x: 1 -> 2"]),
        engine_errors.RunBusy("a", "process 1", 2.0),
        engine_errors.RunOver("a", "cancelled"),
        engine_errors.NotWaiting("a", "b", "why"),
        engine_errors.SubjectMismatch("a", "b", "c"),
        engine_errors.HeadError("a", "b"),
    ]
    for error in examples:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
    tree = {cls for cls in vars(engine_errors).values() if isinstance(cls, type) and issubclass(cls, Exception)}
    concrete = tree - {engine_errors.EngineError, engine_errors.GraphError, engine_errors.Refused}
    assert {type(error) for error in examples} == concrete
    assert all(cls.__name__ in (engine_errors.__doc__ or "") for cls in concrete)
