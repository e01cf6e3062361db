"""What a durable step costs, against a bare Ray task that writes and flushes a file, in the same run on the same Ray.

    python -m tests.bench.durable [--quick] [--storage URI]

| line | what is measured | target |
| --- | --- | --- |
| chain | 200 steps in a row, p50 per step | <= 1.3x of the bare chain |
| fan-out | 200 steps side by side, per step | <= 1.3x |
| 64 MiB | five steps that hand on 64 MiB, per step | <= 1.3x |
| cold start | `python script` to the first step, head running | <= 2 s |
| resume | after kill -9 at the middle of a chain, to the next step | <= 2 s |
| journal | opening a journal of 100,000 steps, with and without its snapshot | - |
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workflows.engine import Engine, Pace, head, step
from workflows.log import Draft, Log

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 2**20


@step
def add_one(x: int) -> int:
    return x + 1


@step
def gather(parts: list[int]) -> int:
    return sum(parts)


@step
def hand_on(data: bytes) -> bytes:
    return data[1:] + data[:1]


@step
def stamped(x: int, folder: str) -> int:
    """Says when it ran."""
    (Path(folder) / f"{x}.{time.time_ns()}").touch()
    return x + 1


def chain(config: dict[str, Any]) -> Any:
    node: Any = 0
    for _ in range(config["length"]):
        node = add_one.bind(node)
    return node


def fan(config: dict[str, Any]) -> Any:
    return gather.bind([add_one.bind(number) for number in range(config["width"])])


def large(config: dict[str, Any]) -> Any:
    node: Any = os.urandom(config["size"])
    for _ in range(config["length"]):
        node = hand_on.bind(node)
    return node


def stamps(config: dict[str, Any]) -> Any:
    node: Any = 0
    for _ in range(config["length"]):
        node = stamped.bind(node, config["folder"])
    return node


def flushed(folder: str, name: str, data: bytes) -> None:
    with (Path(folder) / name).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def bare_task(x: Any, folder: str, name: str) -> Any:
    """The floor: a Ray task whose worker makes its result durable itself."""
    result = x + 1 if isinstance(x, int) else x[1:] + x[:1]
    flushed(folder, name, result if isinstance(result, bytes) else json.dumps(result).encode())
    return result


class Bench:
    """Measures on one storage and one Ray; keeps rows of a table."""

    def __init__(self, storage: str, folder: Path, *, quick: bool) -> None:
        import ray

        self.engine = Engine(storage)
        self.folder = folder
        self.length = 60 if quick else 200
        self.journal_length = 5_000 if quick else 100_000
        self.rounds = 2 if quick else 4
        self.bare = ray.remote(max_retries=0)(bare_task)
        self.rows: list[tuple[str, str, str, str]] = []

    def run(self, builder: Any, config: dict[str, Any]) -> tuple[float, str]:
        run_id = self.engine.start(builder, config)
        began = time.perf_counter()
        view = self.engine.drive(run_id)
        assert view.status == "succeeded", view.reason
        return time.perf_counter() - began, run_id

    def step_times_ms(self, run_id: str) -> list[float]:
        times = [r.at for r in self.records(run_id) if r.kind == "advanced"]
        return [1e3 * (after - before) for before, after in itertools.pairwise(times)]

    def records(self, run_id: str) -> Iterator[Any]:
        return Log(self.engine.store, f"runs/{run_id}", self.engine._fold).records()

    def add(self, what: str, bare: float | None, ours: float, unit: str) -> None:
        ratio = f"{ours / bare:.2f}x" if bare else "-"
        self.rows.append((what, f"{bare:.2f} {unit}" if bare else "-", f"{ours:.2f} {unit}", ratio))
        print(f"{what:44} bare {self.rows[-1][1]:>12}   ours {self.rows[-1][2]:>12}   {ratio}", flush=True)

    def chain(self) -> None:
        """Bare and ours in turns, so that a busy machine is busy for both."""
        import ray

        bare_ms: list[float] = []
        ours_ms: list[float] = []
        self.run(chain, {"length": 10, "warm": 1})
        for number in range(self.rounds):
            value = 0
            for index in range(self.length):
                began = time.perf_counter()
                value = ray.get(self.bare.remote(value, str(self.folder), f"c{number}.{index}"))
                bare_ms.append(1e3 * (time.perf_counter() - began))
            _, run_id = self.run(chain, {"length": self.length, "round": number})
            ours_ms += self.step_times_ms(run_id)
        self.add(f"chain of {self.length}, p50 per step", statistics.median(bare_ms), statistics.median(ours_ms), "ms")
        p95 = [statistics.quantiles(times, n=20)[-1] for times in (bare_ms, ours_ms)]
        self.add(f"chain of {self.length}, p95 per step", p95[0], p95[1], "ms")

    def fan_out(self) -> None:
        import ray

        bare_ms, ours_ms = [], []
        for number in range(self.rounds + 1):
            began = time.perf_counter()
            ray.get([self.bare.remote(n, str(self.folder), f"f{number}.{n}") for n in range(self.length)])
            bare_ms.append(1e3 * (time.perf_counter() - began) / self.length)
            seconds, _ = self.run(fan, {"width": self.length, "round": number})
            ours_ms.append(1e3 * seconds / self.length)
        # The first round starts the workers.
        self.add(f"fan-out of {self.length}, best per step", min(bare_ms[1:]), min(ours_ms[1:]), "ms")

    def large(self, size: int = 64 * MIB, length: int = 5) -> None:
        import ray

        bare_s, ours_s = [], []
        for number in range(2):
            value = ray.put(os.urandom(size))
            began = time.perf_counter()
            for index in range(length):
                value = self.bare.remote(value, str(self.folder), f"l{number}.{index}")
            ray.get(value)
            bare_s.append((time.perf_counter() - began) / length)
            seconds, _ = self.run(large, {"size": size, "length": length, "round": number})
            ours_s.append(seconds / length)
        self.add("64 MiB handed on, best per step", min(bare_s), min(ours_s), "s")

    def cold_start(self, address: str) -> None:
        seconds = []
        for number in range(3):
            traces = self.folder / f"cold{number}"
            traces.mkdir()
            began = time.time()
            _child(self.engine.store.uri, "start", str(traces), "1", address).wait()
            seconds.append(min(_stamps(traces)) - began)
        self.add("cold start to first step, head running", None, min(seconds), "s")

    def resume(self, address: str) -> None:
        seconds = []
        for number in range(3):
            traces = self.folder / f"resume{number}"
            traces.mkdir()
            process = _child(self.engine.store.uri, "start", str(traces), str(self.length), address)
            while len(_stamps(traces)) < self.length // 2:
                time.sleep(0.005)
            process.kill()
            process.wait()
            before = len(_stamps(traces))
            run_id = (traces / "run_id").read_text()
            began = time.time()
            _child(self.engine.store.uri, run_id, str(traces), "0", address).wait()
            seconds.append(sorted(_stamps(traces))[before] - began)
            assert len(_stamps(traces)) <= self.length + 1, "a recorded step ran again"
        self.add("resume after kill -9 to next step", None, min(seconds), "s")

    def journal(self) -> None:
        """A journal of one record per step, written as a runner writes it."""
        length = self.journal_length
        run_id = self.engine.start(chain, {"length": length})
        log = Log(self.engine.store, f"runs/{run_id}", self.engine._fold)
        names = list(log.state.steps)
        log.append(lambda _: Draft("claimed", {"replaces": None, "runner": {"pid": 0}}, epoch=1))
        began = time.perf_counter()
        for index, name in enumerate(names):
            started = [[names[index + 1], 1]] if index + 1 < length else []
            log.append(
                lambda _, n=name, i=index, s=started: Draft("advanced", {"done": [[n, i]], "started": s}, epoch=1)
            )  # type: ignore[misc]
        self.add(f"journal of {length:,}: append, per record", None, 1e3 * (time.perf_counter() - began) / length, "ms")
        began = time.perf_counter()
        assert len(Log(self.engine.store, f"runs/{run_id}", self.engine._fold).state.steps) == length
        self.add(f"journal of {length:,}: open with its snapshot", None, time.perf_counter() - began, "s")
        for info in list(self.engine.store.list(f"runs/{run_id}/snapshots")):
            self.engine.store.delete(info.key)
        began = time.perf_counter()
        assert Log(self.engine.store, f"runs/{run_id}", self.engine._fold).length == length + 2
        self.add(f"journal of {length:,}: open and fold every record", None, time.perf_counter() - began, "s")


def _child(storage: str, run_id: str, traces: str, length: str, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.durable", "--child", storage, run_id, traces, length]
    return subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "RAY_ADDRESS": address})


def _stamps(traces: Path) -> list[float]:
    return [int(path.name.partition(".")[2]) / 1e9 for path in traces.iterdir() if path.name[0].isdigit()]


def _run_child(storage: str, run_id: str, traces: str, length: str) -> None:
    engine = Engine(storage, pace=Pace())
    if run_id == "start":
        run_id = engine.start(stamps, {"length": int(length), "folder": traces})
        (Path(traces) / "run_id").write_text(run_id)
    engine.drive(run_id)


@contextmanager
def _own_ray(state: Path) -> Iterator[str]:
    import ray

    began = time.perf_counter()
    found = head.start(state)
    print(f"Ray head of our own started in {time.perf_counter() - began:.1f} s")
    try:
        head.connect(state)
        yield found.address
    finally:
        ray.shutdown()
        head.stop(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller numbers, a minute in all")
    parser.add_argument("--storage", default="", help="a storage URI; by default a folder that is removed afterwards")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _run_child(*given.child)
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=Path.cwd() if not given.storage else None))
    try:
        with _own_ray(folder / "state") as address:
            (folder / "bare").mkdir()
            bench = Bench(given.storage or f"file://{folder}/storage", folder / "bare", quick=given.quick)
            bench.chain()
            bench.fan_out()
            bench.large()
            bench.cold_start(address)
            bench.resume(address)
            bench.journal()
        print("\n| what | bare Ray + fsync | ours | ratio |\n| --- | --- | --- | --- |")
        for row in bench.rows:
            print("| " + " | ".join(row) + " |")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
