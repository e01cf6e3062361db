"""A durable program whose steps say secrets: in a log line, in an error, encoded. Run by `test_planted_secrets`."""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import sys
from typing import Any
from urllib.parse import quote

from workflows.command_line import set_up_logging
from workflows.engine import Engine, step
from workflows.engine.worker import Attempt, run_attempt


@step
def careless(told: str) -> str:
    """Logs and raises what it finds in the environment."""
    secrets = [value for name, value in os.environ.items() if name.startswith("PLANTED_")]
    assert len(secrets) == 3, "the environment reaches the workers"
    for secret in secrets:
        logging.getLogger("careless").warning("%s %s and %s", told, secret, quote(secret, safe=""))
        logging.getLogger("careless").error("%s %s", told, base64.b64encode(secret.encode()).decode())
    try:
        _log_in(told, secrets)
    except ConnectionError as error:
        logging.getLogger("careless").exception("it went wrong")
        raise RuntimeError(f"{told} with {secrets}") from error


def _log_in(told: str, secrets: list[str]) -> None:
    raise ConnectionError(f"{told} cannot log in with {' '.join(secrets)}")


def build(config: dict[str, str]) -> Any:
    """One step."""
    return careless.bind(config["told"])


def attempt_at(storage: str, run_id: str, number: int) -> bytes:
    """What a worker is told about the step."""
    fields = Attempt(
        storage=storage, run_id=run_id, origin=run_id, step="careless", attempt=number, epoch=1, length=1,
        function="tests.workflows.engine.secret_program:careless",
        arguments={"args": ["visible-marker"], "kwargs": {}}, results={},
        scope="careless/1", announce=True, fence_interval_s=60.0, recorded_code="",
    )  # fmt: skip
    return pickle.dumps(tuple(getattr(fields, name) for name in Attempt.__slots__))


if __name__ == "__main__":
    redactor = set_up_logging()
    engine = Engine(sys.argv[1])
    engine.start(build, {"told": "visible-marker"}, run_id="r1")
    for number in (1, 2):
        outcome = run_attempt(attempt_at(engine.store.uri, "r1", number))
        engine.store.put(f"runs/r1/steps/careless/{number:04}/outcome.json", outcome)
    logging.getLogger("driver").warning("%s with %s", "visible-marker", os.environ["PLANTED_TOKEN"])
    sys.stdout.write(json.loads(outcome)["kind"] + "\n")
