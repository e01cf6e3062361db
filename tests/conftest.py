"""Shared surroundings of the tests: one local Ray, one MinIO, a store of each kind. What is missing skips visibly."""

from __future__ import annotations

import lzma
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Ray reads it when it is imported: under `uv run` it would give each worker a copy of the project.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

REPOSITORY = Path(__file__).resolve().parent.parent
MINIO_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "everloop", "AWS_SECRET_ACCESS_KEY": "everloop-tests"}


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local Ray of 4 logical CPUs for the whole session, connected to; yields its address."""
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ |= MINIO_CREDENTIALS  # workers inherit them from here, and MinIO may be started later
    temp_dir = Path("/tmp") / f"el-{secrets.token_hex(3)}"
    context = ray.init(
        num_cpus=4,
        include_dashboard=False,
        namespace="tests",
        object_store_memory=512 * 2**20,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(temp_dir),
        runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
    )
    yield str(context.address_info["address"])
    ray.shutdown()
    shutil.rmtree(temp_dir, ignore_errors=True)


def _minio_binary(folder: Path) -> Path | None:
    for found in (os.environ.get("EVERLOOP_MINIO"), shutil.which("minio")):
        if found:
            return Path(found)
    packed = REPOSITORY.parent / "shared" / "k8s" / "bin" / "minio.xz"
    if not packed.exists():
        return None
    binary = folder / "minio"
    with lzma.open(packed) as source, binary.open("wb") as target:
        shutil.copyfileobj(source, target)
    binary.chmod(0o755)
    return binary


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MinIO on loopback with the bucket `tests`; yields its endpoint and sets the credentials."""
    folder = tmp_path_factory.mktemp("minio")
    binary = _minio_binary(folder)
    if binary is None:
        pytest.skip("no MinIO: set EVERLOOP_MINIO or put `minio` on PATH")
    port = _free_port()
    os.environ |= MINIO_CREDENTIALS
    (folder / "data" / "tests").mkdir(parents=True)
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [str(binary), "server", str(folder / "data"), "--address", f"127.0.0.1:{port}", "--quiet"],
        env={
            **os.environ,
            "MINIO_ROOT_USER": "everloop",
            "MINIO_ROOT_PASSWORD": "everloop-tests",
            "MINIO_BROWSER": "off",
        },
        stdout=log,
        stderr=log,
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_until_live(f"{endpoint}/minio/health/live", server)
        yield endpoint
    finally:
        server.kill()
        server.wait()
        log.close()


def _wait_until_live(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"MinIO ended at once with {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail("MinIO was not ready in 60 s")


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty storage, once on a folder and once on MinIO."""
    if request.param == "file":
        return f"file://{tmp_path}/storage"
    endpoint = request.getfixturevalue("minio")
    return f"s3://tests/{secrets.token_hex(6)}?endpoint_override={endpoint}"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Headless Chromium driven by selenium; the test skips without them."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the extra `browser` is not installed")
    from steps.scrape.browser import CHROMEDRIVER, CHROMIUM

    chromium = next((path for path in CHROMIUM if Path(path).exists()), None)
    driver = next((path for path in CHROMEDRIVER if Path(path).exists()), shutil.which("chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = f"--user-data-dir={tmp_path}/profile"
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1500", profile):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield opened
    opened.quit()
