"""A client of the endpoint, for the checks and the replayed prompts of a rollout; the standard library is enough."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from steps.deploy.errors import SmokeTestFailedError

TIMEOUT_S = 60.0
CHECK_S = 60.0
"""How long an endpoint that was just converged may take until it answers over HTTP."""


def ask(
    url: str, alias: str, prompt: str, *, max_tokens: int, headers: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Completes a prompt.

    Returns:
        Body and headers of the answer.

    Raises:
        OSError: It did not answer, or not with 200.
    """
    body = json.dumps({"model": alias, "prompt": prompt, "max_tokens": max_tokens}).encode()
    request = urllib.request.Request(  # noqa: S310 - the URL is the endpoint's own
        f"{url}/v1/completions", body, {"content-type": "application/json", **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer), {name.lower(): value for name, value in answer.headers.items()}


def check_endpoint(url: str, alias: str, version: str) -> None:
    """Returns once the endpoint answers over HTTP.

    Raises:
        SmokeTestFailedError: It does not.
    """
    deadline = time.monotonic() + CHECK_S
    while True:
        try:
            body, _ = ask(url, alias, "The", max_tokens=4)
        except OSError as error:
            if time.monotonic() > deadline:
                raise SmokeTestFailedError(version, f"{url}/v1 does not answer: {error}") from error
            time.sleep(0.2)
            continue
        if body.get("model") != alias or body["usage"]["completion_tokens"] < 1:
            raise SmokeTestFailedError(version, f"{url}/v1 gives an answer that is none: {body}")
        return
