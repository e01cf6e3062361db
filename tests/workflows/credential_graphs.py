"""Graphs whose steps try what their storage credentials let them do. Imported by workers, so a module of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from steps.common.context import StepContext
from workflows.access.errors import CredentialError
from workflows.access.sts import KeyPair, assume_role
from workflows.configs import PipelineConfig
from workflows.engine import step
from workflows.log import StoreError, open_store
from workflows.log.served_credentials import ServedCredentials
from workflows.pipeline import scrape, validate, version


@step
def work(number: int, ctx: StepContext) -> dict[str, Any]:
    """Writes where a step writes, also from a store that it opens itself and from a task of its own."""
    import ray

    folder = f"runs/{ctx.run_id}/steps/{ctx.step_id}/{ctx.attempt:04}"
    ctx.store.put(f"{folder}/one", b"1")
    open_store(ctx.store.uri).put(f"{folder}/two", b"2")
    ray.get(ray.remote(num_cpus=0)(_write).remote(ctx.store, f"{folder}/three"))
    return {
        "ref": ctx.blobs.put(f"{number}".encode()).sha256,
        "kept": [info.key.rpartition("/")[2] for info in ctx.store.list(folder)],
        "inherited": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
    }


def _write(store: Any, key: str) -> None:
    store.put(key, b"3")


@step
def trespass(before: Any, keys: list[str], ctx: StepContext) -> dict[str, str]:
    """Tries each key by put, get and list, and says how that ended."""
    ended = {}
    for key in keys:
        ended[f"put {key}"] = _tried(lambda key=key: ctx.store.put(key, b"x"))  # type: ignore[misc]
        ended[f"get {key}"] = _tried(lambda key=key: ctx.store.get(key))  # type: ignore[misc]
        folder = key.rpartition("/")[0]
        ended[f"list {folder}"] = _tried(lambda folder=folder: list(ctx.store.list(folder)))  # type: ignore[misc]
    return ended


@step
def promote_itself(before: Any, endpoint: str, ctx: StepContext) -> str:
    """Asks the token service for more with what the step has."""
    served = ServedCredentials.from_environment(os.environ)
    assert served is not None
    found = served()
    keys = KeyPair(found["access_key_id"], found["secret_access_key"], found["token"] or "")
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"arn:aws:s3:::*"}]}'
    try:
        assume_role(endpoint, keys, policy, duration_s=900, pauses_s=())
    except CredentialError as error:
        return str(error)
    return "given"


@step
def denied(ctx: StepContext) -> None:
    """Fails by what it may not."""
    ctx.store.put("releases/prod/x", b"x")


def _tried(call: Callable[[], object]) -> str:
    try:
        call()
    except StoreError as error:
        return type(error).__name__
    return "done"


def build(config: dict[str, Any]) -> Any:
    """Works, trespasses, and asks for more."""
    return promote_itself.bind(trespass.bind(work.bind(1), config["keys"]), config["endpoint"])


def build_work(config: dict[str, Any]) -> Any:
    """Works."""
    return work.bind(config["number"])


def build_denied(config: None) -> Any:
    """Is denied."""
    return denied.bind()


def build_dataset(config: PipelineConfig) -> Any:
    """The loop up to the dataset version."""
    crawl = scrape.bind(config.scrape, config.version.name)
    return version.bind(config.version, crawl, validate.bind(config.validate_, crawl))
