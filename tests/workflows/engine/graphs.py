"""Small graphs that tests run: every step says that it ran by adding a file to a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workflows.engine import Approval, Caught, Context, Event, Resources, Retry, Timeouts, approval, event, sleep, step


def seen(folder: str, name: str) -> int:
    """How often the step has run."""
    return len(list(Path(folder).glob(f"{name}.*"))) if Path(folder).exists() else 0


def ran(folder: str, name: str) -> int:
    """Leaves a trace of one run of a step, and says the how many-th it was."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{name}.{os.getpid()}.{time.time_ns()}").touch()
    return seen(folder, name)


@step
def one(folder: str) -> int:
    ran(folder, "one")
    return 1


@step
def add(left: int, right: int, folder: str, name: str) -> int:
    ran(folder, name)
    return left + right


def small(config: dict[str, Any]) -> Any:
    """1 + 1 and 1 + 10 side by side, then their sum: 13."""
    folder = config["folder"]
    first = one.bind(folder)
    left = add.named("left").bind(first, 1, folder, "left")
    right = add.named("right").bind(first, 10, folder, "right")
    return add.named("total").bind(left, right, folder, "total")


def chain(config: dict[str, Any]) -> Any:
    """`length` steps in a row, each adds 1."""
    node: Any = 0
    for number in range(config["length"]):
        node = add.named(f"add{number}").bind(node, 1, config["folder"], f"add{number}")
    return node


def fan(config: dict[str, Any]) -> Any:
    """Many steps side by side and their sum."""
    parts = [add.named(f"part{n}").bind(n, 0, config["folder"], f"part{n}") for n in range(config["width"])]
    return total.bind(parts)


@step
def total(parts: list[int]) -> int:
    return sum(parts)


class Flaky(Exception):
    pass


class Hopeless(Flaky):
    pass


@step(retries=Retry(attempts=3, base_s=0.01, retryable=(Flaky,), terminal=(Hopeless,)))
def flaky(folder: str, failures: int, terminal: bool = False) -> int:
    runs = ran(folder, "flaky")
    if runs <= failures:
        raise Hopeless("no use") if terminal else Flaky(f"run {runs}")
    return runs


def flaky_graph(config: dict[str, Any]) -> Any:
    return flaky.bind(config["folder"], config["failures"], config.get("terminal", False))


@step(catch=True)
def fragile(fail: bool) -> int:
    if fail:
        raise ValueError("x" * 100_000)
    return 5


@step
def look(caught: Caught) -> str:
    return "fine" if caught.error is None else caught.error.type


def caught_graph(config: dict[str, Any]) -> Any:
    return look.bind(fragile.bind(config["fail"]))


def failing_graph(config: dict[str, Any]) -> Any:
    return add.bind(fails.bind(config["folder"]), 1, config["folder"], "after")


@step
def fails(folder: str) -> int:
    if ran(folder, "fails") == 1:
        raise ValueError("the first time it fails")
    return 41


@step
def count_down(left: int, folder: str) -> Any:
    """A loop by continuation."""
    return left if left == 0 else count_down.bind(left - 1, folder)


def loop_graph(config: dict[str, Any]) -> Any:
    return add.bind(count_down.bind(config["rounds"], config["folder"]), 7, config["folder"], "after")


@step
def nested(folder: str) -> Any:
    """Gives a graph whose inner step gives a graph too."""
    return add.named("inner").bind(count_down.bind(2, folder), 1, folder, "inner")


def nested_graph(config: dict[str, Any]) -> Any:
    return nested.bind(config["folder"])


def approval_graph(config: dict[str, Any]) -> Any:
    subject = one.bind(config["folder"])
    return outcome.bind(approval("ship", subject=subject, expires_s=config.get("expires_s")), config["folder"])


@step
def outcome(decided: Approval, folder: str) -> str:
    ran(folder, "outcome")
    return decided.outcome


def event_graph(config: dict[str, Any]) -> Any:
    return payload.bind(event("data", timeout_s=config.get("timeout_s"), after=one.bind(config["folder"])))


@step
def payload(found: Event) -> Any:
    return "expired" if found.expired else found.payload


def sleep_graph(config: dict[str, Any]) -> Any:
    return add.bind(sleep(config["duration_s"], after=one.bind(config["folder"])), 1, config["folder"], "after")


def waits_only(config: dict[str, Any]) -> Any:
    """Needs no worker at all."""
    return approval("ship", subject=config["subject"], expires_s=config.get("expires_s"))


@step
def big(size: int) -> bytes:
    return bytes(size)


@step
def length(data: bytes) -> int:
    return len(data)


def big_graph(config: dict[str, Any]) -> Any:
    return length.bind(big.bind(config["size"]))


@step
def checkpointed(folder: str, ctx: Context) -> dict[str, Any]:
    """Dies in the middle the first time."""
    done = [(point.attempt, point.name, point.data) for point in ctx.previous]
    ctx.checkpoint(f"part-{ctx.attempt}", {"attempt": ctx.attempt, "scratch": ctx.scratch.is_dir()})
    if ran(folder, "checkpointed") == 1:
        os._exit(9)
    return {"attempt": ctx.attempt, "token": ctx.token, "previous": [list(point) for point in done]}


def checkpoint_graph(config: dict[str, Any]) -> Any:
    return checkpointed.bind(config["folder"])


class Helper:
    """What a step has beside itself."""

    def __init__(self, *, broken: bool) -> None:
        if broken:
            raise ValueError("it cannot be made")

    def work(self, *, dies: bool) -> int:
        if dies:
            os._exit(9)
        return 7


@step(retries=Retry(base_s=0.01))
def with_helper(folder: str, trouble: str) -> int:
    """Has one that dies, or that is wanted on a node that is gone, the first time; or one that cannot be made."""
    first = ran(folder, "with_helper") == 1
    gone = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    placed = {"scheduling_strategy": gone} if first and trouble == "no node" else {}
    helper = ray.remote(Helper).options(num_cpus=0, **placed).remote(broken=trouble == "broken")
    return int(ray.get(helper.work.remote(dies=first and trouble == "dies")))


def helped_graph(config: dict[str, Any]) -> Any:
    return with_helper.bind(config["folder"], config["trouble"])


@step
def slow(folder: str, ctx: Context) -> int:
    """Works until a file says that it may end; shows progress; asks the fence before its effect."""
    run = ran(folder, "slow")
    deadline = time.monotonic() + 120
    while not (Path(folder) / "go").exists():
        ctx.progress(run, 2, "working", {"runs": run})
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.02)
    ctx.fence()
    ran(folder, "effect")
    return run


def slow_graph(config: dict[str, Any]) -> Any:
    return slow.bind(config["folder"])


@step(timeouts=Timeouts(attempt_s=0.5), retries=Retry(attempts=2, base_s=0.01), catch=True)
def too_long(folder: str, seconds: float) -> int:
    runs = ran(folder, "too_long")
    if runs == 1:
        time.sleep(seconds)
    return runs


def timeout_graph(config: dict[str, Any]) -> Any:
    return look.bind(too_long.bind(config["folder"], config["seconds"]))


@step(resources=Resources(num_cpus=1000), timeouts=Timeouts(queue_s=0.3), catch=True)
def never_placed() -> int:
    return 0


def queue_graph(config: dict[str, Any]) -> Any:
    return look.bind(never_placed.bind())


@step(resources=Resources(coordinator=True))
def coordinating(folder: str, number: int) -> int:
    """Says how many run at the same time."""
    here = Path(folder) / f"here.{number}"
    here.touch()
    together = len(list(Path(folder).glob("here.*")))
    time.sleep(0.05)
    here.unlink()
    return together


@step
def largest(parts: list[int]) -> int:
    return max(parts)


def coordinator_graph(config: dict[str, Any]) -> Any:
    return largest.bind([coordinating.named(f"c{n}").bind(config["folder"], n) for n in range(config["width"])])
