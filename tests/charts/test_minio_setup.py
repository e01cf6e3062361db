"""The container beside MinIO, against a real MinIO."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from tests.charts.rendering import CHART
from workflows.access.credentials import EVERY_STEP, session_policy
from workflows.access.sts import KeyPair, assume_role
from workflows.log import StoreDenied, open_store

pytestmark = pytest.mark.services

ROOT = ("everloop", "everloop-tests")


def set_up(url: str, bucket: str, user: str, password: str) -> str:
    environ = {
        "MINIO_URL": url, "MINIO_ROOT_USER": ROOT[0], "MINIO_ROOT_PASSWORD": ROOT[1], "BUCKET": bucket,
        "PREFIX": "loop", "KEEP_DELETED_DAYS": "1", "LOOP_ACCESS_KEY": user, "LOOP_SECRET_KEY": password,
    }  # fmt: skip
    script = str(CHART / "files" / "minio_setup.py")
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_loops_user_has_its_bucket_alone_and_asks_for_credentials_of_steps(
    minio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minio", reason="the extra `minio` is not installed")
    mine, other, user, password = f"loop-{secrets.token_hex(4)}", "tests", f"u{secrets.token_hex(4)}", "p" * 20
    for _ in range(2):
        assert "user are there" in set_up(minio, mine, user, password)

    def store(bucket: str, keys: tuple[str, str]) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[1])
        open_store(f"s3://{bucket}/loop?endpoint_override={minio}").put(f"runs/{secrets.token_hex(4)}", b"1")

    store(other, ROOT)
    with pytest.raises(StoreDenied):
        store(other, (user, password))
    store(mine, (user, password))
    policy = session_policy(mine, "loop/", EVERY_STEP, run="r1", path="train")
    given = assume_role(minio, KeyPair(user, password), policy, duration_s=900)
    assert given.session_token
