"""The proxy before a real MinIO: what it refuses leaves no object; what clients of ours send passes."""

from __future__ import annotations

import hashlib
import io
import secrets
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from minio import Minio
from minio.credentials import Credentials
from minio.signer import presign_v4, sign_v4_s3
from multidict import CIMultiDict, CIMultiDictProxy

from workflows.access import EVERY_STEP
from workflows.access.credentials import session_policy
from workflows.access.storage_proxy import make_app, refusal
from workflows.access.sts import KeyPair, assume_role
from workflows.log import AlreadyExists, open_store

REPOSITORY = Path(__file__).resolve().parents[3]
ROOT = Credentials("everloop", "everloop-tests")
UNSIGNED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@pytest.mark.parametrize(
    ("query", "headers", "refused"),
    [
        ("", {}, False),
        ("list-type=2&prefix=snow", {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}, False),
        ("", {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"}, False),
        ("X-Amz-Credential=a&X-Amz-Signature=b", {}, False),
        ("", {"X-Amz-Content-Sha256": UNSIGNED}, True),
        ("", {"x-amz-content-sha256": f" {UNSIGNED.lower()} "}, True),
        ("X-Amz-Credential=a", {}, True),
        ("x-amz-credential=a&X-Amz-Date=b", {"Authorization": "AWS4-HMAC-SHA256 x"}, True),
        ("X%2DAmz%2DCredential=a", {}, True),
        (f"X-Amz-Content-Sha256={UNSIGNED}&X-Amz-Credential=a&X-Amz-Signature=b", {}, True),
        ("", {"X-Amz-Meta-Snowball-Auto-Extract": "true"}, True),
        ("", {"x-amz-meta-snowball-auto-extract": "TRUE"}, True),
        ("", {"X-Amz-Snowball-Extract": "true"}, True),
    ],
)
def test_what_is_refused(query: str, headers: dict[str, str], refused: bool) -> None:
    assert bool(refusal(query, CIMultiDictProxy(CIMultiDict(headers)))) == refused


def test_the_second_of_two_equal_headers_is_looked_at_too() -> None:
    headers = CIMultiDict([("x-amz-content-sha256", "0" * 64), ("x-amz-content-sha256", UNSIGNED)])
    assert refusal("", CIMultiDictProxy(headers))


@pytest.mark.parametrize("upstream", ["127.0.0.1:9000", "ftp://x", "http://", "http://x/path"])
def test_an_upstream_that_is_none_is_refused(upstream: str) -> None:
    with pytest.raises(ValueError, match="upstream"):
        make_app(upstream)


@pytest.fixture(scope="module")
def proxy(minio: str) -> Iterator[str]:
    """A proxy of its own process before MinIO; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "workflows.access.storage_proxy", "--upstream", minio, "--port", str(port)],
        cwd=REPOSITORY,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{address}/minio/health/live", timeout=10):
                    break
            except OSError:
                assert server.poll() is None, "the proxy has ended"
                assert time.monotonic() < deadline, "the proxy does not answer"
                time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def put(address: str, key: str, body: bytes, **headers: str) -> int:
    """A signed PUT with these headers; the status."""
    digest = headers.pop("digest", hashlib.sha256(body).hexdigest())
    url = urllib.parse.urlsplit(f"{address}/tests/{key}")
    now = datetime.now(UTC)
    given = {
        "Host": url.netloc, "x-amz-content-sha256": digest, "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }  # fmt: skip
    signed = sign_v4_s3(
        method="PUT", url=url, region="us-east-1", headers=given, credentials=ROOT, content_sha256=digest, date=now
    )
    return send(urllib.request.Request(url.geturl(), data=body, headers=signed, method="PUT"))


def send(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return int(error.code)


def names(minio: str, prefix: str) -> list[str]:
    client = Minio(
        endpoint=minio.removeprefix("http://"), access_key="everloop", secret_key="everloop-tests", secure=False
    )
    found = client.list_objects(bucket_name="tests", prefix=prefix, recursive=True)
    return sorted(str(each.object_name).removeprefix(prefix) for each in found)


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(6)}/"


def archive(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 5
        tar.addfile(entry, io.BytesIO(b"hello"))
    return packed.getvalue()


@pytest.mark.services
class TestBeforeMinio:
    def test_a_signed_upload_passes(self, proxy: str, minio: str, prefix: str) -> None:
        assert put(proxy, f"{prefix}x", b"hello") == 200
        assert names(minio, prefix) == ["x"]

    def test_an_unsigned_trailer_is_refused_and_leaves_no_object(self, proxy: str, minio: str, prefix: str) -> None:
        body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
        trailer = {"digest": UNSIGNED, "x_amz_decoded_content_length": "5", "x_amz_trailer": "x-amz-checksum-crc32"}
        assert put(proxy, f"{prefix}x", body, Content_Encoding="aws-chunked", **trailer) == 403
        assert names(minio, prefix) == []
        # The very same request is taken by the server itself.
        assert put(minio, f"{prefix}x", body, Content_Encoding="aws-chunked", **trailer) == 200
        assert names(minio, prefix) == ["x"]

    def test_an_archive_is_not_unpacked(self, proxy: str, minio: str, prefix: str) -> None:
        assert (
            put(proxy, f"{prefix}a.tar", archive(f"{prefix}inner.txt"), X_Amz_Meta_Snowball_Auto_Extract="true") == 403
        )
        assert names(minio, prefix) == []
        assert (
            put(minio, f"{prefix}a.tar", archive(f"{prefix}inner.txt"), X_Amz_Meta_Snowball_Auto_Extract="true") == 200
        )
        assert names(minio, prefix) == ["inner.txt"]
        assert put(proxy, f"{prefix}b.tar", archive(f"{prefix}inner.txt")) == 200

    def test_credentials_in_the_query_need_a_signature(self, proxy: str, minio: str, prefix: str) -> None:
        day = datetime.now(UTC).strftime("%Y%m%d")
        query = f"X-Amz-Credential=everloop%2F{day}%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Algorithm=AWS4-HMAC-SHA256"
        for headers in ({}, {"x-amz-content-sha256": UNSIGNED}):
            request = urllib.request.Request(f"{proxy}/tests/{prefix}x?{query}", b"x", headers, method="PUT")
            assert send(request) == 403
        assert names(minio, prefix) == []
        url = presign_v4(
            method="PUT", url=urllib.parse.urlsplit(f"{proxy}/tests/{prefix}x"), region="us-east-1",
            credentials=ROOT, date=datetime.now(UTC), expires=60,
        )  # fmt: skip
        assert send(urllib.request.Request(url.geturl(), b"x", method="PUT")) == 200
        assert names(minio, prefix) == ["x"]

    def test_a_wrong_signature_is_the_servers_to_refuse(self, proxy: str, minio: str, prefix: str) -> None:
        request = urllib.request.Request(f"{proxy}/tests/{prefix}x", b"x", method="PUT")
        assert send(request) == 403
        assert names(minio, prefix) == []

    def test_a_store_works_through_it(self, proxy: str, prefix: str, tmp_path: Path) -> None:
        store = open_store(f"s3://tests/{prefix.strip('/')}?endpoint_override={proxy}", probe=True)
        big = tmp_path / "big"
        big.write_bytes(secrets.token_bytes(40 * 2**20))
        store.create("a/one", b"1")
        with pytest.raises(AlreadyExists):
            store.create("a/one", b"2")
        store.upload("a/big", big)
        store.download("a/big", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == big.read_bytes()
        assert [info.key for info in store.list("a")] == ["a/big", "a/one"]
        store.delete("a/one")
        assert store.head("a/one") is None
        assert abs(store.now() - time.time()) < 60

    def test_the_token_service_is_reached_through_it(self, proxy: str) -> None:
        policy = session_policy("tests", "", EVERY_STEP, run="r1")
        assert assume_role(proxy, KeyPair("everloop", "everloop-tests"), policy, duration_s=900).session_token


@pytest.mark.services
def test_a_server_that_is_away_is_said_to_be_away(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "workflows.access.storage_proxy", "--upstream=http://127.0.0.1:9", f"--port={port}"],
        cwd=REPOSITORY, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        status = 0
        while status != 503:
            assert time.monotonic() < deadline
            try:
                status = send(urllib.request.Request(f"http://127.0.0.1:{port}/tests/x"))
            except OSError:
                time.sleep(0.05)
    finally:
        server.terminate()
        server.wait(30)


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from workflows.access.storage_proxy import main

    assert main(["--upstream", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
