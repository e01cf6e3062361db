"""A durable program whose steps say secrets: in a log line, in an error, encoded. Run by `test_planted_secrets`."""

from __future__ import annotations

import base64
import logging
import os
import sys
from typing import Any
from urllib.parse import quote

from workflows.command_line import set_up_logging
from workflows.engine import Engine, Retry, step


@step(retries=Retry(attempts=2, base_s=0.01))
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


if __name__ == "__main__":
    set_up_logging()
    engine = Engine(sys.argv[1])
    view = engine.drive(engine.start(build, {"told": "visible-marker"}, run_id="r1"))
    logging.getLogger("driver").warning("%s with %s", view.steps[0].error, os.environ["PLANTED_TOKEN"])
    sys.stdout.write(f"{view.status}\n")
