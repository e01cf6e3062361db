"""Secrets planted in the environment come out nowhere: not in the storage, not in a log, not in what is said."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

REPOSITORY = Path(__file__).resolve().parents[3]
PLANTED = {
    "PLANTED_TOKEN": "canary+token/5f1c9a",
    "PLANTED_DATABASE_PASSWORD": "canary pass word 77",
    "PLANTED_URL": "postgresql://loop:canary-in-url-31@127.0.0.1/db",
}
VALUES = [PLANTED["PLANTED_TOKEN"], PLANTED["PLANTED_DATABASE_PASSWORD"], "canary-in-url-31"]


def forms(secret: str) -> list[bytes]:
    return [form.encode() for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode())]


def run(*command: str) -> tuple[int, bytes]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env=clean | PLANTED,
        capture_output=True,
        timeout=250,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def files(*folders: Path) -> Iterator[tuple[Path, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


def test_planted_secrets_stay_where_they_are(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    code, said = run("tests.workflows.engine.secret_program", str(storage))
    assert (code, b"failed" in said) == (0, True), said[-2000:]
    kept = dict(files(storage)) | {Path("what the program said"): said}
    leaks = [
        (str(path), form) for path, data in kept.items() for value in VALUES for form in forms(value) if form in data
    ]
    assert leaks == []
    # The control: what is no secret is found in the journal, in what the attempt brought, and in what was said.
    marked = [
        str(path.relative_to(storage) if path.is_absolute() else path)
        for path in kept
        if b"visible-marker" in kept[path]
    ]
    assert "what the program said" in marked
    assert "runs/r1/steps/careless/0002/outcome.json" in marked
    assert "runs/r1/00000000000000000000.json" in marked
    assert said.count(b"[redacted]") > 10
    assert b"[redacted]" in kept[storage / "runs/r1/steps/careless/0001/outcome.json"]
