"""What people and the world get wrong, through the commands: a clear error that names value and rule, nothing lost, and
the run goes on after the repair.

Each run ends in one of its first two steps, so that no test waits for a model: a gate on the language stops the run
after a crawl that went well.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from tests.e2e.conftest import REPOSITORY, Loop
from tests.steps.scrape.conftest import Site, article
from workflows.engine.head import find

pytestmark = pytest.mark.e2e

GATE = ('validate.languages=["de"]', "validate.min_rows=1")
"""English pages only: the step after the crawl refuses them all, and the run ends there."""


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def loop(new_loop: Callable[[], Loop]) -> Loop:
    return new_loop()


def flags(*seeds: str, settings: tuple[str, ...] = ()) -> list[str]:
    given = (
        f"scrape.seeds={json.dumps(seeds)}",
        "scrape.allow_private=true",
        "scrape.max_attempts=1",
        *GATE,
        *settings,
    )
    return ["--recipe", "nano", "--run-id", "bad", *(part for setting in given for part in ("--set", setting))]


def failed(loop: Loop, *arguments: str) -> dict[str, Any]:
    """A run that must fail, resumably; gives its steps by name."""
    said = loop.run(*arguments, expect=1)
    assert said["status"] == "failed"
    return {step["name"]: step for step in said["steps"]}


def assert_the_crawl_is_made_good(loop: Loop) -> dict[str, Any]:
    """After the repair the same run goes on: the crawl succeeds, and the gate ends the run."""
    steps = failed(loop, "--resume", "bad")
    assert steps["scrape"]["status"] == "succeeded"
    assert "languag" in steps["validate"]["error"]
    return steps


def test_an_unreachable_seed_is_named_and_the_run_goes_on_once_it_answers(loop: Loop, site: Site) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    seed = f"http://127.0.0.1:{port}/"

    steps = failed(loop, *flags(seed))

    assert f"seed '{seed}' cannot be reached" in steps["scrape"]["error"]
    with serving_at(port, article("Back again").encode()):
        assert_the_crawl_is_made_good(loop)


def test_robots_that_forbid_all_are_named_and_obeyed(loop: Loop, site: Site) -> None:
    site.pages |= {"/robots.txt": "User-agent: *\nDisallow: /", "/": article("Home")}

    steps = failed(loop, *flags(f"{site.url}/"))

    assert f"robots.txt forbids seed '{site.url}/'" in steps["scrape"]["error"]
    assert site.paths() == []
    site.pages["/robots.txt"] = "User-agent: *\nAllow: /"
    assert_the_crawl_is_made_good(loop)


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/html"})
    await answer.prepare(request)
    try:
        while True:
            await answer.write(b"<p>and so on and on</p>" * 1000)
    except (ConnectionError, OSError):
        return answer


def test_endless_pages_garbage_and_ways_to_a_metadata_service_cost_only_themselves(loop: Loop, site: Site) -> None:
    def garbage(request: web.Request) -> web.Response:
        return web.Response(body=bytes(range(128, 256)) * 400, content_type="text/html", charset="utf-8")

    def inside(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})

    site.pages |= {
        "/": article("Home", ("/endless", "/garbage", "/inside", "/good")),
        "/good": article("Good"),
        "/endless": _endless,
        "/garbage": garbage,
        "/inside": inside,
    }

    steps = failed(loop, *flags(f"{site.url}/", settings=("scrape.max_bytes=100000", "scrape.page_timeout_s=10")))

    assert steps["scrape"]["status"] == "succeeded"
    crawl = loop.engine.output("bad", "scrape")
    assert crawl.num_changed == 2
    assert crawl.rejected.get("too_large") == 1
    assert crawl.rejected.get("private_address") == 1
    assert sum(crawl.rejected.values()) == 3
    assert len(site.asked("/endless")) == 1


def test_a_seed_that_leads_to_a_metadata_service_is_refused_by_name_even_where_private_addresses_are_allowed(
    loop: Loop,
) -> None:
    steps = failed(loop, *flags("http://169.254.169.254/latest/meta-data/"))

    assert re.search(r"seed 'http://169\.254\.169\.254/.*' is refused: .*169\.254", steps["scrape"]["error"])


def test_an_empty_crawl_says_what_became_of_the_pages(loop: Loop, site: Site) -> None:
    site.pages["/"] = "<html><body><p>Hm.</p></body></html>"

    steps = failed(loop, *flags(f"{site.url}/"))

    assert "is empty: no document has ever come from it" in steps["scrape"]["error"]
    assert re.search(r"\(\w+: 1\)", steps["scrape"]["error"])
    site.pages["/"] = article("Home")
    assert_the_crawl_is_made_good(loop)


@pytest.mark.parametrize("where", ["file.write.before-fsync@4", "log.append.before-create@5"])
def test_a_full_disk_stops_the_run_by_name_and_loses_nothing(
    loop: Loop, site: Site, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.pages["/"] = article("Home")
    loop.call("workflows.runs", "list")  # the probe of the storage is not what fails
    monkeypatch.setenv("EVERLOOP_FAILPOINT", f"{where}=enospc")
    process = loop.spawn("workflows.run", *flags(f"{site.url}/"), "--json")
    err = process.communicate(timeout=600)[1]
    monkeypatch.delenv("EVERLOOP_FAILPOINT")

    assert (process.returncode, "No space left" in err or "no space left" in err) == (1, True), err[-3000:]
    assert "Traceback" not in err
    # Whether the run was recorded already or not: asking again, or going on, does what was asked, once.
    steps = failed(loop, *flags(f"{site.url}/"))
    assert steps["scrape"]["status"] == "succeeded"
    assert loop.engine.verify("bad").ok
    assert [run.run_id for run in loop.engine.list()] == ["bad"]


def test_a_corrupt_record_is_named_and_the_mended_run_goes_on_without_crawling_again(loop: Loop, site: Site) -> None:
    site.pages["/"] = article("Home")
    failed(loop, *flags(f"{site.url}/"))
    asked, length = len(site.log), loop.engine.verify("bad").length
    record = Path(loop.storage.removeprefix("file://")) / "runs" / "bad" / f"{length - 1:020}.json"
    record.chmod(0o644)
    record.write_bytes(record.read_bytes()[:-30])

    process = loop.spawn("workflows.run", "--resume", "bad", "--json")
    err = process.communicate(timeout=600)[1]
    assert (process.returncode, "Traceback" in err) == (1, False), err[-3000:]
    assert re.search(rf"runs/bad.*{length - 1}", err)
    said = json.loads(loop.call("workflows.runs", "verify", "bad", "--json", expect=1))
    assert said["first_bad"] == length - 1
    mended = json.loads(loop.call("workflows.runs", "repair", "bad", "--json"))["run_id"]

    steps = failed(loop, "--resume", mended)

    assert steps["scrape"]["status"] == "succeeded"
    assert (len(site.log), steps["scrape"]["attempts"]) == (asked, 1)
    assert "languag" in steps["validate"]["error"]


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    with lying_s3() as (port, objects):
        storage = f"s3://bucket/loop?endpoint_override=http://127.0.0.1:{port}"
        process = Loop(storage, loop.state).spawn("workflows.run", "--recipe", "nano", "--json")
        err = process.communicate(timeout=600)[1]

    assert (process.returncode, "Traceback" in err) == (1, False), err[-3000:]
    assert "ignores `If-None-Match: *`" in err
    assert objects == {}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("scrape.max_page=5", "scrape.max_page: is not a key"),
        ("scrape.max_pages=0", "scrape.max_pages: .*greater than or equal to 1.*it is 0"),
        ("scraper.max_pages=5", "scraper: is not a key"),
        ('scrape.seeds=["ftp://example.org/"]', "ftp://example.org/"),
        ("max_pages=5", "must read section.key=value"),
    ],
)
def test_wrong_config_keys_and_values_are_refused_by_name_and_start_nothing(
    loop: Loop, setting: str, named: str
) -> None:
    process = loop.spawn("workflows.run", "--recipe", "nano", "--set", setting, "--json")
    out, err = process.communicate(timeout=600)

    assert (process.returncode, out) == (2, "")
    assert re.search(named, err), err
    assert len(err.strip().splitlines()) == 1
    assert loop.engine.list() == []


def test_a_ray_of_others_on_the_usual_ports_is_neither_joined_nor_stopped(
    new_loop: Callable[[], Loop], site: Site, tmp_path: Path
) -> None:
    loop = Loop(new_loop().storage, tmp_path / "state")
    site.pages["/"] = article("Home")
    with foreign_ray() as processes, port_held(8265):
        try:
            steps = failed(loop, *flags(f"{site.url}/"))
            ours = find(loop.state)
        finally:
            loop.call("workflows.run", "--down")
        assert all(psutil.pid_exists(pid) for pid in processes)

    assert steps["scrape"]["status"] == "succeeded"
    assert ours is not None
    assert not {"6379", "8265"} & {ours.address.rpartition(":")[2], ours.dashboard.rpartition(":")[2]}


class serving_at:  # noqa: N801 - reads as a phrase
    """Serves one page at a port."""

    def __init__(self, port: int, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(body if found else b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> serving_at:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class lying_s3:  # noqa: N801
    """An object store that answers 200 to every PUT, whatever the condition."""

    def __init__(self) -> None:
        objects: dict[str, bytes] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in (("Content-Length", str(len(body))), ("ETag", '"x"')):
                    self.send_header(name, value)
                self.send_header("Last-Modified", self.date_time_string())
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else body)

            def do_PUT(self) -> None:
                objects[self.path.partition("?")[0]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200)

            def do_GET(self) -> None:
                found = objects.get(self.path.partition("?")[0])
                self.answer(404) if found is None else self.answer(200, found)

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_DELETE(self) -> None:
                objects.pop(self.path.partition("?")[0], None)
                self.answer(204)

            def do_POST(self) -> None:  # obstore deletes in bulk
                asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
                keys = re.findall(r"<Key>(.*?)</Key>", asked)
                for key in keys:
                    objects.pop(f"/bucket/{key}", None)
                deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
                self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._objects = objects
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> tuple[int, dict[str, bytes]]:
        self._thread.start()
        return int(self._server.server_address[1]), self._objects

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class foreign_ray:  # noqa: N801
    """Somebody else's Ray head on the default port, without our token, found by whoever says `auto`."""

    def __enter__(self) -> list[int]:
        if not _is_free(6379):
            pytest.skip("port 6379 is taken on this machine")
        self._temp = tempfile.mkdtemp(prefix="fr-", dir="/tmp")
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port=6379", "--num-cpus=1",
            "--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--temp-dir={self._temp}",
            "--object-store-memory=100000000", "--disable-usage-stats",
        ]  # fmt: skip
        clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**clean, "RAY_AUTH_MODE": "disabled"},
            check=True,
            capture_output=True,
            timeout=200,
        )
        self._pids = [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if any(self._temp in part for part in process.info["cmdline"] or ())
        ]
        assert self._pids
        return self._pids

    def __exit__(self, *error: object) -> None:
        for pid in self._pids:
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()


class port_held:  # noqa: N801
    """Listens on a port, unless somebody does already."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> None:
        self._socket = socket.socket()
        if _is_free(self._port):
            self._socket.bind(("127.0.0.1", self._port))
            self._socket.listen()

    def __exit__(self, *error: object) -> None:
        self._socket.close()


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
