"""The engine `transformers`: one replica of one model version.

Takes a model folder by reference, fetches it verified to a local cache, loads it, and answers `Generation`s with a
stream of pieces. Safe to restart at any time: it holds nothing but the model. It counts its starts in the storage,
because a rollout must know how often the challenger died.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator

from steps.common.language_model import load_model
from steps.common.language_model.light_transformers import light_transformers
from steps.common.releases import ReleasedModel
from steps.deploy.batching import BatchEngine
from steps.deploy.config import ServingConfig
from steps.deploy.generation import Generation, Piece, Refusal
from steps.deploy.model_cache import cached_model
from steps.deploy.starts import record_start
from workflows.log import open_store

logger = logging.getLogger(__name__)


class TransformersReplica:
    """Answers with transformers on the CPU; the class of a Serve deployment.

    Args:
        storage: URI of the storage that holds the model.
        application: Name of the application, for the count of starts.
        model: What to serve.
        serving: How.
    """

    def __init__(self, storage: str, application: str, model: ReleasedModel, serving: ServingConfig) -> None:
        import torch

        torch.set_num_threads(serving.num_threads)
        store = open_store(storage)
        record_start(store, application, session=_ray_session(), replica=secrets.token_hex(8))
        folder = cached_model(store, model.model)
        loaded = load_model(folder)
        max_context = int(loaded.config.max_position_embeddings)
        self._engine = BatchEngine(
            loaded,
            light_transformers().PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True),
            max_batch=serving.max_batch,
            max_context=min(max_context, serving.max_context or max_context),
        )
        # The first pass through a model compiles and allocates; without this the first client would wait for it.
        self._engine.score("warm", " up")

    async def generate(self, request: Generation) -> AsyncGenerator[list[Piece | Refusal]]:
        """Streams an answer in lists: whatever is ready is sent at once, and nothing waits to be sent together."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Queue[Piece | Refusal | Exception] = asyncio.Queue()

        def deliver(item: Piece | Refusal | Exception) -> None:
            loop.call_soon_threadsafe(ready.put_nowait, item)

        cancel = self._engine.submit(request, deliver)
        try:
            while True:
                items = [await ready.get()]
                while not ready.empty():
                    items.append(ready.get_nowait())
                pieces = [item for item in items if not isinstance(item, Exception)]
                if pieces:
                    yield pieces
                errors = [item for item in items if isinstance(item, Exception)]
                if errors:
                    raise errors[0]
                last = pieces[-1]
                if isinstance(last, Refusal) or last.finish_reason is not None:
                    return
        finally:
            cancel()

    async def score(self, prompt: str, answer: str) -> float | None:
        """Gives the nats per byte of an answer after a prompt."""
        return await asyncio.to_thread(self._engine.score, prompt, answer)

    def check_health(self) -> None:
        """Called by Serve; an exception replaces the replica."""
        if not self._engine.alive:
            raise RuntimeError("the thread that generates has ended")


def _ray_session() -> str:
    import ray

    return str(ray.get_runtime_context().get_session_name() or "session")
