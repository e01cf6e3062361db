"""What `helm test` asks: each door answers those who may come in, and refuses those who may not."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request


def status(url: str, key: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - Services of this release
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def expectations(environ: dict[str, str]) -> list[tuple[str, str | None, set[int]]]:
    """URL, key, and the statuses that are right. Every denial has a positive control."""
    asked: list[tuple[str, str | None, set[int]]] = []
    if ray := environ.get("RAY"):
        jobs = f"{ray}/api/jobs/"
        asked += [(jobs, environ["RAY_TOKEN"], {200}), (jobs, None, {401}), (jobs, "wrong" * 8, {403})]
    if door := environ.get("DOOR"):
        asked += [(f"{door}/readyz", None, {200})]
        asked += [(f"{door}/v1/runs", environ["ADMIN_KEY"], {200}), (f"{door}/v1/runs", None, {401})]
        asked += [(f"{door}/v1/runs", "elk_wrong", {401})]
    if gateway := environ.get("GATEWAY"):
        models = f"{gateway}/v1/models"
        # Before the first release nothing is served: the key is good, and there is nobody behind the door.
        asked += [
            (models, environ["ENDPOINT_KEY"], {200, 404, 502}),
            (models, None, {401}),
            (models, "elk_wrong", {401}),
        ]
    if minio := environ.get("MINIO"):
        asked += [(f"{minio}/minio/health/ready", None, {200}), (f"{minio}/everloop", None, {403})]
    return asked


def main() -> int:
    wrong = 0
    for url, key, right in expectations(dict(os.environ)):
        found = status(url, key)
        kind = "no key" if key is None else "wrong key" if "wrong" in key else "key"
        sys.stdout.write(f"{'ok  ' if found in right else 'FAIL'} {found} {url} ({kind})\n")
        wrong += found not in right
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
