"""Tells the door of a push, signed: what continuous integration runs after its tests and its image.

`python -m triggers.push --alias tiny --ref refs/heads/main --commit SHA --image-digest sha256:...`

Where the door is and the secret come from the environment: EVERLOOP_DOOR, EVERLOOP_PUSH_SECRET. The door runs it once a
commit, so a job that is run again starts nothing new. Exit codes: 0 told, 1 refused or out of reach, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

from workflows.access import WebhookSecret, sign_webhook
from workflows.command_line import DONE, FAILED, WRONG_USE

TIMEOUT_S = 60.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m triggers.push", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--alias", required=True, help="the release that is to be trained anew")
    made.add_argument("--ref", required=True, help="refs/heads/main")
    made.add_argument("--commit", required=True, help="its full SHA")
    made.add_argument("--image-digest", default="", help="sha256:... of the image that was built of it")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    arguments = parser().parse_args(argv)
    door, text = os.environ.get("EVERLOOP_DOOR", ""), os.environ.get("EVERLOOP_PUSH_SECRET", "")
    if not door.startswith(("https://", "http://")) or not text:
        sys.stderr.write("error: set EVERLOOP_DOOR (http:// or https://) and EVERLOOP_PUSH_SECRET\n")
        return WRONG_USE
    try:
        secret = WebhookSecret.parse(text)
    except ValueError as error:
        sys.stderr.write(f"error: EVERLOOP_PUSH_SECRET: {error}\n")
        return WRONG_USE
    body = json.dumps(
        {
            "alias": arguments.alias,
            "ref": arguments.ref,
            "commit": arguments.commit,
            "image_digest": arguments.image_digest,
        }
    ).encode()
    # A fresh id each time: a job that is run again is no replay; the door knows the commit.
    headers = {**sign_webhook(secret, f"push_{os.urandom(12).hex()}", body), "content-type": "application/json"}
    request = urllib.request.Request(f"{door.rstrip('/')}/v1/hooks/push", body, headers)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked above
            sys.stdout.write(answer.read().decode() + "\n")
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"error: {error.code}: {error.read(2000).decode(errors='replace')}\n")
        return FAILED
    except OSError as error:
        sys.stderr.write(f"error: {door} does not answer: {error}\n")
        return FAILED
    return DONE


if __name__ == "__main__":
    sys.exit(main())
