"""The engine `vllm`: a model version behind `ray.serve.llm`, seen by the router through the same interface.

Needs the extra `vllm`. Streams are not batched in time: `ray.serve.llm` waits 50 ms before its first flush unless told
otherwise (github.com/ray-project/ray/issues/59681).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from steps.common.releases import ReleasedModel
from steps.deploy.config import ServingConfig
from steps.deploy.errors import MissingExtraError
from steps.deploy.generation import Generation, Piece, Refusal
from steps.deploy.model_cache import models_folder


def require_vllm() -> None:
    """Returns if vLLM is installed.

    Raises:
        MissingExtraError: Names the extra that brings it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("vllm", "vllm")


def vllm_application(
    storage: str, name: str, model: ReleasedModel, serving: ServingConfig, environ: Mapping[str, str]
) -> Any:
    """Builds the application of a model version.

    Args:
        storage: URI of the storage that holds the model.
        name: Name of the application.
        model: What to serve.
        serving: How.
        environ: Variables of its processes.

    Raises:
        MissingExtraError: vLLM is not installed.
    """
    require_vllm()
    from ray.serve.llm import LLMConfig, build_llm_deployment

    from steps.deploy.vllm_files import FetchedModel

    root = models_folder()
    engine_kwargs: dict[str, Any] = {"enable_prompt_tokens_details": False}
    if serving.max_context is not None:
        # vLLM sizes histograms by it, and Ray's exporter needs them equal in champion and challenger.
        engine_kwargs["max_model_len"] = serving.max_context
    bundle: dict[str, float] = {"CPU": serving.replica_cpus * 2}
    environ = {**environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if serving.gpus_per_replica:
        bundle["GPU"] = 1
        engine_kwargs["tensor_parallel_size"] = serving.gpus_per_replica
    else:
        # Else it compiles each model anew: a replica starts later, and the image would need a C++ compiler. The first
        # is vLLM's own switch; its sampler compiles nevertheless, unless torch is told.
        engine_kwargs["enforce_eager"] = True
        environ["TORCHDYNAMO_DISABLE"] = "1"
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": str(root / model.model.sha256)},
        callback_config={
            "callback_class": FetchedModel,
            "callback_kwargs": {"storage": storage, "model": model.model, "root": root},
        },
        accelerator_config=None if serving.gpus_per_replica else {"kind": "cpu"},
        placement_group_config={"bundle_per_worker": bundle},
        engine_kwargs=engine_kwargs,
        log_engine_metrics=True,
        experimental_configs={"stream_batching_interval_ms": 0},
        runtime_env={"env_vars": environ},
        deployment_config={
            "ray_actor_options": {"num_cpus": serving.replica_cpus / 2},
            "max_ongoing_requests": serving.max_in_flight,
            "num_replicas": serving.num_replicas,
            "graceful_shutdown_timeout_s": serving.drain_s,
        },
    )
    return build_llm_deployment(config)


class VllmEngine:
    """Asks an `LLMServer`. Satisfies `Engine`.

    Args:
        handle: Handle of the application.
        model_id: The id that the server knows its model by: the application's name.
    """

    def __init__(self, handle: Any, model_id: str) -> None:
        self._handle, self._model_id = handle.options(stream=True), model_id

    async def generate(self, request: Generation) -> AsyncGenerator[Piece | Refusal]:
        """Streams the answer."""
        method = self._handle.chat if request.prompt is None else self._handle.completions
        answer = method.remote(vllm_request(request, self._model_id), None)
        num_prompt_tokens = num_tokens = num_told = 0
        last_text, reason = "", None
        try:
            async for chunk in answer:
                for event in events_of(chunk):
                    if isinstance(event, Refusal):
                        yield event
                        return
                    counts = event.get("usage") or {}
                    num_prompt_tokens = counts.get("prompt_tokens", num_prompt_tokens)
                    num_tokens = counts.get("completion_tokens", num_tokens)
                    choice: Mapping[str, Any] = next(iter(event.get("choices") or ()), {})
                    reason = choice.get("finish_reason") or reason
                    text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                    if reason is not None:
                        # The usage comes after the reason: the last piece waits for it.
                        last_text += text
                    elif text:
                        yield Piece(text=text, num_tokens=num_tokens - num_told, num_prompt_tokens=num_prompt_tokens)
                        num_told = num_tokens
            if reason is None:
                raise RuntimeError("the stream of vLLM ended without a reason")
            yield Piece(
                text=last_text,
                num_tokens=num_tokens - num_told,
                num_prompt_tokens=num_prompt_tokens,
                finish_reason="length" if reason == "length" else "stop",
            )
        finally:
            answer.cancel()

    async def score(self, prompt: str, answer: str) -> float | None:  # noqa: ARG002 - the interface's names
        """Gives None: `ray.serve.llm` has no method that scores a text."""
        return None


def vllm_request(request: Generation, model_id: str) -> Any:
    """Translates a request into what `ray.serve.llm` takes."""
    from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

    shared = {
        "model": model_id,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    if request.prompt is not None:
        return CompletionRequest(prompt=request.prompt, **shared)
    return ChatCompletionRequest(messages=[dict(message) for message in request.messages], **shared)


def events_of(chunk: Any) -> list[Mapping[str, Any] | Refusal]:
    """Reads what a stream of `LLMServer` gives: text in server-sent events, or an error object.

    Raises:
        RuntimeError: The engine failed.
    """
    if isinstance(chunk, list):
        return [event for part in chunk for event in events_of(part)]
    error = getattr(chunk, "error", None)
    if error is not None:
        return [_refusal(int(getattr(error, "code", 500) or 500), str(getattr(error, "message", error)))]
    if not isinstance(chunk, str):
        return [chunk.model_dump()]
    found: list[Mapping[str, Any] | Refusal] = []
    for line in chunk.splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = json.loads(data)
        failed = event.get("error")
        found.append(_refusal(int(failed.get("code") or 500), str(failed.get("message"))) if failed else event)
    return found


def _refusal(status: int, message: str) -> Refusal:
    if status >= 500:
        raise RuntimeError(message)
    return Refusal(
        field="prompt", message=message, code="context_length_exceeded" if "context" in message else "invalid_value"
    )
