"""The engine behind HTTP with nothing else: the peer of `tests.bench.serving`.

    python -m tests.bench.parts.bare_server FOLDER PORT

The class is used twice: by uvicorn in a process of its own, as `vllm serve` would be, and as a Serve replica.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from steps.common.language_model import load_model
from steps.deploy.batching import BatchEngine
from steps.deploy.generation import Generation


def bare_engine(folder: Path) -> BatchEngine:
    """The engine as a replica of the product has it."""
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return BatchEngine(load_model(folder), tokenizer, max_batch=8, max_context=256)


class BareServer:
    """Answers completions as a stream of events."""

    def __init__(self, folder: str) -> None:
        self._engine = bare_engine(Path(folder))

    async def __call__(self, request: Request) -> StreamingResponse:
        body = await request.json()
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Any]()
        asked = Generation(
            request_id="bare",
            prompt=body["prompt"],
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=1.0,
            stop=(),
            seed=None,
        )

        def arrived(piece: Any) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        self._engine.submit(asked, arrived)
        reason = None
        while reason is None:
            piece = await pieces.get()
            reason = piece.finish_reason
            chunk = {"choices": [{"index": 0, "text": piece.text, "finish_reason": reason}]}
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        yield b"data: [DONE]\n\n"


def main() -> None:
    import uvicorn

    server = BareServer(sys.argv[1])
    app = Starlette(routes=[Route("/v1/completions", server.__call__, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
