"""What the endpoint adds to the time to the first token, against the bare engine with the same model in the same run.

    python -m tests.bench.serving [--requests N]

Requests go in turns: one to the engine in this process, one through a Serve handle (one hop), one through HTTP and the
router (two hops), one after the other, with streaming. A wait for the machine hits all three alike.

| line | what is measured | target |
| --- | --- | --- |
| engine | `BatchEngine.submit` to its first piece | - |
| handle | Serve handle to the first piece | - |
| endpoint | HTTP request to its first event | <= engine + 10 ms at p50 |
| token | time per further token, engine and endpoint | - |
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import queue
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steps.common import releases
from steps.common.language_model import ModelConfig, build_model, load_model, load_tokenizer, save_model
from steps.common.language_model.tokenizer import save_tokenizer, train_tokenizer
from steps.common.releases import Limits, ReleasedModel, open_release_log
from steps.deploy import ServingConfig, converge
from steps.deploy.batching import BatchEngine
from steps.deploy.generation import Generation
from steps.deploy.naming import application_name
from workflows.engine import head
from workflows.log import Blobs, open_store

ALIAS = "bench"
NUM_TOKENS = 8
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
        self._url = urlsplit(endpoint.url)
        self._connection = http.client.HTTPConnection(str(self._url.hostname), self._url.port, timeout=120)
        self._application = application_name(store.uri, ALIAS, "1")
        self._engine = self._bare()
        self._loop = asyncio.new_event_loop()

    def measure(self, num_requests: int) -> dict[str, list[tuple[float, float]]]:
        """Seconds to the first token, and per further token, of each request by way."""
        ways = {"engine": self._by_engine, "handle": self._by_handle, "endpoint": self._by_http}
        for way in ways.values():
            for _ in range(5):
                way()
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(num_requests):
            for name, way in ways.items():
                found[name].append(way())
        return found

    def _bare(self) -> BatchEngine:
        import torch
        from transformers import PreTrainedTokenizerFast

        torch.set_num_threads(1)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self._folder, local_files_only=True)
        return BatchEngine(load_model(self._folder), tokenizer, max_batch=8, max_context=256)

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

    def _by_http(self) -> tuple[float, float]:
        body = {"model": ALIAS, "prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": True}
        began = time.perf_counter()
        self._connection.request(
            "POST",
            f"{self._url.path}/v1/completions",
            json.dumps(body),
            {"Content-Type": "application/json", "x-session-id": "bench"},
        )
        answer = self._connection.getresponse()
        times = []
        while line := answer.readline():
            if line.startswith(b"data:"):
                times.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
        return _timing(times)


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
    parser.add_argument("--requests", type=int, default=200, help="of each kind")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        head.start(folder / "state")
        head.connect(folder / "state")
        found = Bench(f"file://{folder}/storage", folder).measure(given.requests)
    finally:
        head.stop(folder / "state")
        shutil.rmtree(folder, ignore_errors=True)
    print(
        "| way | first token p50 | p95 | over the engine at p50 | further token p50 |\n| --- | --- | --- | --- | --- |"
    )
    base = statistics.median(first for first, _ in found["engine"])
    for name, timings in found.items():
        first = sorted(each for each, _ in timings)
        p50, p95 = statistics.median(first), first[int(len(first) * 0.95)]
        more = statistics.median(each for _, each in timings)
        numbers = (p50, p95, p50 - base, more)
        print(f"| {name} | " + " | ".join(f"{number * 1e3:.1f} ms" for number in numbers) + " |")


if __name__ == "__main__":
    main()
