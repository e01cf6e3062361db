"""What the endpoint adds to the time to the first token, against the bare engine with the same model in the same run.

    python -m tests.bench.serving [--requests N]

Requests go in turns, one of each way after the other, with streaming: a wait for the machine hits all alike.

| way | what is measured | target |
| --- | --- | --- |
| engine | `BatchEngine.submit` in this process to its first piece | - |
| server | HTTP to the engine alone behind uvicorn, as `vllm serve` is | - |
| handle | Serve handle of the released model's replica to the first piece | - |
| replica | HTTP through Serve's proxy to a replica with the engine alone | - |
| endpoint | HTTP through Serve's proxy, the router, and the released model's replica | <= server + 10 ms at p50 |
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from steps.common import releases
from steps.common.language_model import ModelConfig, build_model, load_tokenizer, save_model
from steps.common.language_model.tokenizer import save_tokenizer, train_tokenizer
from steps.common.releases import Limits, ReleasedModel, open_release_log
from steps.deploy import ServingConfig, converge
from steps.deploy.generation import Generation
from steps.deploy.naming import application_name
from tests.bench.parts.bare_server import BareServer, bare_engine
from workflows.engine import head
from workflows.log import Blobs, open_store

ALIAS = "bench"
NUM_TOKENS = 8
REPOSITORY = Path(__file__).resolve().parents[2]
PROMPT = "The value of a list is"


class Bench:
    """A released model of random weights behind the endpoint, and beside it in this process."""

    def __init__(self, storage: str, folder: Path) -> None:
        store = open_store(storage)
        self._folder = _model_folder(folder)
        model = ReleasedModel("1", Blobs(store).put_tree(self._folder), {}, "bench@v1", "bench")
        log = open_release_log(store, ALIAS)
        log.append(
            releases.open_rollout(
                rollout_id="first",
                challenger=model,
                run_id="bench",
                epoch=1,
                at=store.now(),
                deadline_at=store.now() + 60,
                limits=Limits(),
                stage="smoke",
                weight=0.0,
                serving=ServingConfig().model_dump(mode="json"),
            )
        )
        log.append(releases.promote("first", "1", epoch=1, at=store.now(), reasons=("bench",)))
        endpoint = converge(store.uri, ALIAS)
        print(f"endpoint up in {endpoint.seconds:.1f} s at {endpoint.url}")
        self._endpoint = _Client(endpoint.url)
        self._application = application_name(store.uri, ALIAS, "1")
        self._replica = _Client(_deploy_bare(self._folder, endpoint.url))
        port = _free_port()
        command = [sys.executable, "-m", "tests.bench.parts.bare_server", str(self._folder), str(port)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY)
        self._server = _Client(f"http://127.0.0.1:{port}")
        try:
            self._server.wait_until_up()
        except BaseException:
            self.close()
            raise
        self._engine = bare_engine(self._folder)
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def measure(self, num_requests: int) -> dict[str, list[tuple[float, float]]]:
        """Seconds to the first token, and per further token, of each request by way."""
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "engine": self._by_engine,
            "server": self._server,
            "handle": self._by_handle,
            "replica": self._replica,
            "endpoint": self._endpoint,
        }
        for way in ways.values():
            for _ in range(5):
                way()
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(num_requests):
            for name, way in ways.items():
                found[name].append(way())
        return found

    def _by_engine(self) -> tuple[float, float]:
        pieces: queue.Queue[Any] = queue.Queue()
        began = time.perf_counter()
        self._engine.submit(_request(), pieces.put)
        times = []
        while True:
            piece = pieces.get(timeout=60)
            times.append(time.perf_counter() - began)
            if piece.finish_reason is not None:
                return _timing(times)

    def _by_handle(self) -> tuple[float, float]:
        return self._loop.run_until_complete(self._stream())

    async def _stream(self) -> tuple[float, float]:
        from ray import serve

        handle = serve.get_app_handle(self._application).options(stream=True)
        began = time.perf_counter()
        return _timing([time.perf_counter() - began async for _ in handle.generate.remote(_request())])


class _Client:
    """One connection that is kept open; a call asks once and gives seconds to the first token and per further one."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(self._url.hostname), self._url.port, timeout=120)

    def __call__(self) -> tuple[float, float]:
        body = {"model": ALIAS, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": True}
        headers = {"Content-Type": "application/json", "x-session-id": "bench"}
        began = time.perf_counter()
        self._connection.request("POST", f"{self._url.path}/v1/completions", json.dumps(body), headers)
        answer = self._connection.getresponse()
        times = []
        while line := answer.readline():
            if line.startswith(b"data:"):
                times.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
        return _timing(times)

    def wait_until_up(self, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self()
            except ConnectionError:
                self._connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return


def _deploy_bare(folder: Path, endpoint: str) -> str:
    """Starts a replica with the engine alone on the Serve that runs, and gives its URL."""
    from ray import serve

    deployment = serve.deployment(BareServer, ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=64)
    serve.run(deployment.bind(str(folder)), name="bare", route_prefix="/bare")
    return f"http://{urlsplit(endpoint).netloc}/bare"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _request() -> Generation:
    return Generation(
        request_id="bench", prompt=PROMPT, max_tokens=NUM_TOKENS, temperature=0.0, top_p=1.0, stop=(), seed=None
    )


def _timing(times: list[float]) -> tuple[float, float]:
    return times[0], (times[-1] - times[0]) / max(1, NUM_TOKENS - 1)


def _model_folder(folder: Path) -> Path:
    texts = ["the value of a list is returned", "import os, sys", "returns a new string"] * 50
    save_tokenizer(train_tokenizer(texts, 400), folder / "tokenizer", 256)
    tokenizer, special = load_tokenizer(folder / "tokenizer")
    # Never ends by itself, so that every answer has the same number of tokens.
    model = build_model(ModelConfig(), tokenizer.get_vocab_size(), special, 0)
    model.generation_config.eos_token_id = None
    save_model(model, {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}, folder / "model")
    return folder / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="of each way")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    bench = None
    try:
        head.start(folder / "state")
        head.connect(folder / "state")
        bench = Bench(f"file://{folder}/storage", folder)
        _print(bench.measure(given.requests))
    finally:
        if bench is not None:
            bench.close()
        ray.shutdown()
        head.stop(folder / "state")
        shutil.rmtree(folder, ignore_errors=True)


def _print(found: dict[str, list[tuple[float, float]]]) -> None:
    print("| way | first token p50 | p95 | over the bare server, p50 of the differences | further token p50 |")
    print("| --- | --- | --- | --- | --- |")
    base = [first for first, _ in found["server"]]
    for name, timings in found.items():
        first = [each for each, _ in timings]
        over = statistics.median(here - there for here, there in zip(first, base, strict=True))
        more = statistics.median(each for _, each in timings)
        numbers = (statistics.median(first), sorted(first)[int(len(first) * 0.95)], over, more)
        print(f"| {name} | " + " | ".join(f"{number * 1e3:.1f} ms" for number in numbers) + " |")


if __name__ == "__main__":
    main()
