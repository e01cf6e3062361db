"""A step: a function with the engine's settings, whose `bind` makes an ordinary `ray.dag` node."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from workflows.engine.errors import NotImportable, StepFailure

if TYPE_CHECKING:
    from ray.dag import FunctionNode

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how fast a failed attempt is repeated.

    The delay before attempt n + 1 is `min(cap_s, base_s * factor ** (n - 1))`, shortened by up to `jitter` of itself
    ("equal jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Attributes:
        attempts: Attempts that may end with the step's own error, the first included.
        base_s: Delay after the first failure.
        factor: Growth of the delay.
        cap_s: Longest delay.
        jitter: Share of the delay that is random, 0 to 1.
        retryable: Errors worth another attempt.
        terminal: Errors that end the step at once, even if they are retryable.
        lost_attempts: Attempts that may be lost with a process or node, theirs or one they had work on, counted apart.
        out_of_memory_attempts: Attempts that may be killed for memory, counted apart.
    """

    attempts: int = 1
    base_s: float = 1.0
    factor: float = 2.0
    cap_s: float = 60.0
    jitter: float = 0.25
    retryable: tuple[type[BaseException], ...] = (Exception,)
    terminal: tuple[type[BaseException], ...] = ()
    lost_attempts: int = 3
    out_of_memory_attempts: int = 2

    def __post_init__(self) -> None:
        for name in ("attempts", "lost_attempts", "out_of_memory_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.base_s < 0 or self.cap_s < 0 or self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ValueError(f"{self}: base_s and cap_s must not be negative, factor at least 1, jitter within 0 to 1")

    def worth_another(self, error: BaseException) -> bool:
        """Whether this kind of error may be retried at all."""
        return isinstance(error, self.retryable) and not isinstance(error, self.terminal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Bounds on a step's time, in seconds; None means none.

    Attributes:
        queue_s: From being handed to Ray to the start of the function.
        attempt_s: From the start of the function to its end.
        total_s: From the first start to the end of the step, over all attempts.
    """

    queue_s: float | None = None
    attempt_s: float | None = None
    total_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("queue_s", "attempt_s", "total_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What an attempt asks of Ray.

    Attributes:
        num_cpus: Logical CPUs.
        num_gpus: GPUs.
        memory_bytes: Memory that Ray reserves, or None.
        coordinator: The step only drives other Ray work and holds no CPU: a wait inside it would otherwise keep one
        from
            the very work it waits for. Coordinators are bounded in number instead.
    """

    num_cpus: float | None = None
    num_gpus: float = 0.0
    memory_bytes: int | None = None
    coordinator: bool = False

    def __post_init__(self) -> None:
        if self.coordinator and self.num_cpus:
            raise ValueError(f"a coordinator holds no CPU, but num_cpus is {self.num_cpus}")

    @property
    def cpus(self) -> float:
        """CPUs asked for: 0 for a coordinator, else `num_cpus`, by default 1."""
        if self.coordinator:
            return 0.0
        return 1.0 if self.num_cpus is None else self.num_cpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """The result of a step that catches its failure: its value, or how it failed."""

    value: Any = None
    error: StepFailure | None = None


class Step(Generic[P, T]):
    """A function and how it is run. Call it like the function; `bind` it to make a node of a graph."""

    def __init__(
        self,
        function: Callable[P, T],
        *,
        retries: Retry,
        timeouts: Timeouts,
        resources: Resources,
        effects: str,
        pickle: bool,
        catch: bool,
    ) -> None:
        self.function = function
        self.retries = retries
        self.timeouts = timeouts
        self.resources = resources
        self.effects = effects
        self.pickle = pickle
        self.catch = catch
        self.step_id = ""
        self.address = address_of(function)
        self.signature = inspect.signature(function)
        self.wants_context = "ctx" in self.signature.parameters
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.address}>"

    def named(self, step_id: str) -> Step[P, T]:
        """The same step under an id of its own in the graph, instead of the function's name."""
        other: Step[P, T] = object.__new__(Step)
        other.__dict__.update(self.__dict__)
        other.step_id = step_id
        return other

    def bind(self, *args: Any, **kwargs: Any) -> FunctionNode:
        """A node that will run this step with these arguments, which may be nodes or hold nodes.

        Raises:
            TypeError: The arguments do not fit the function.
        """
        context = {"ctx": None} if self.wants_context else {}
        self.signature.bind(*args, **kwargs, **context)
        return node(self.function, self.address, args, kwargs, self.step_id)

    def options(self) -> dict[str, Any]:
        """The settings as JSON. They are part of the graph, so that a runner need not import the step."""
        retries = self.retries
        return {
            "attempts": retries.attempts,
            "base_s": retries.base_s,
            "factor": retries.factor,
            "cap_s": retries.cap_s,
            "jitter": retries.jitter,
            "lost_attempts": retries.lost_attempts,
            "out_of_memory_attempts": retries.out_of_memory_attempts,
            "queue_s": self.timeouts.queue_s,
            "attempt_s": self.timeouts.attempt_s,
            "total_s": self.timeouts.total_s,
            "num_cpus": self.resources.cpus,
            "num_gpus": self.resources.num_gpus,
            "memory_bytes": self.resources.memory_bytes,
            "coordinator": self.resources.coordinator,
            "effects": self.effects,
            "catch": self.catch,
            "pickle": self.pickle,
        }


@overload
def step(function: Callable[P, T], /) -> Step[P, T]: ...
@overload
def step(
    *,
    retries: Retry = ...,
    timeouts: Timeouts = ...,
    resources: Resources = ...,
    effects: str = ...,
    pickle: bool = ...,
    catch: bool = ...,
) -> Callable[[Callable[P, T]], Step[P, T]]: ...
def step(
    function: Callable[P, T] | None = None,
    /,
    *,
    retries: Retry | None = None,
    timeouts: Timeouts | None = None,
    resources: Resources | None = None,
    effects: str = "",
    pickle: bool = False,
    catch: bool = False,
) -> Any:
    """Makes a step of a module-level function. A parameter named `ctx` is handed the attempt's `Context`.

    Args:
        function: The function, when used without parentheses.
        retries: How failed attempts are repeated; by default a step's own error ends it.
        timeouts: Bounds on its time.
        resources: What it asks of Ray; by default one CPU.
        effects: One sentence on what it changes outside the run, for dry runs.
        pickle: Whether results that have no safe encoding may be pickled.
        catch: Whether a failure is a value: the step then gives a `Caught`.
    """

    def decorate(function: Callable[P, T]) -> Step[P, T]:
        return Step(
            function,
            retries=retries or Retry(),
            timeouts=timeouts or Timeouts(),
            resources=resources or Resources(),
            effects=effects,
            pickle=pickle,
            catch=catch,
        )

    return decorate if function is None else decorate(function)


def node(function: Any, address: str, args: tuple[Any, ...], kwargs: dict[str, Any], step_id: str) -> FunctionNode:
    """An ordinary `ray.dag` node. Ray's own option `name` carries the address and the id, so nothing is hidden in
    it.
    """
    from ray.dag import FunctionNode

    return FunctionNode(function, args, kwargs, {"name": f"{address}#{step_id}"})


def address_of(function: Callable[..., Any]) -> str:
    """`module:qualname`, by which any process of the same code finds the function.

    Raises:
        NotImportable: It is a closure, a lambda, or no function at all.
    """
    qualname = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    if qualname is None or module is None:
        raise NotImportable(repr(function), "it is not a function with a name of its own")
    if "<lambda>" in qualname:
        raise NotImportable(f"{module}:{qualname}", "it is a lambda; give it a name with `def` at module level")
    if "<locals>" in qualname:
        raise NotImportable(f"{module}:{qualname}", "it is a closure; define it at module level and pass it arguments")
    return f"{_importable_module(module, qualname)}:{qualname}"


def _importable_module(module: str, qualname: str) -> str:
    """The name under which others import the module: a script's is its file's, since its directory is on the path."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        name = str(spec.name)
        return name.removesuffix(".__main__") + (".__main__" if name.endswith(".__main__") else "")
    file = getattr(main, "__file__", None)
    if file is None:
        raise NotImportable(f"{module}:{qualname}", "it was typed in, not read from a file")
    return Path(file).stem


def resolve(address: str) -> Any:
    """What stands at `module:qualname`.

    Raises:
        NotImportable: Nothing does.
    """
    module, _, qualname = address.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise NotImportable(address, str(error)) from error
    return found


def resolve_step(address: str) -> Step[..., Any]:
    """The step at an address.

    Raises:
        NotImportable: There is none, or it is something else.
    """
    found = resolve(address)
    if not isinstance(found, Step):
        raise NotImportable(address, f"there is {type(found).__name__}, not a function decorated with @step")
    return found


def backoff_s(options: dict[str, Any], failures: int, chance: float) -> float:
    """Seconds before the next attempt after so many failures; `chance` is uniform in 0 to 1."""
    delay = min(options["cap_s"], options["base_s"] * options["factor"] ** max(0, failures - 1))
    return float(delay * (1 - options["jitter"] * chance))
