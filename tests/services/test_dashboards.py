"""The dashboards: what is committed is what is generated; every query is asked of a real Prometheus that scrapes the
product's own collectors over real logs, the real door and the real MinIO, and none of them is empty."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from steps.common import releases
from steps.common.outcomes import Outcome
from steps.common.releases import Evidence, Limits, ReleasedModel, ReleaseState, open_release_log
from steps.common.signals import SignalPolicy, admit, advanced, finished, open_signal_log, raise_signal, signal
from steps.deploy.metrics import RouterMetrics
from steps.monitor.metrics import DriftCollector
from steps.monitor.monitor_log import open_monitor_log
from tests.by_path import load_script
from workflows.api import Loop as WorkflowLoop
from workflows.configs import load
from workflows.log import BlobRef, Draft, Log, TreeRef, open_store
from workflows.metrics import LoopCollector
from workflows.outbox import Dispatcher, Receiver

FOLDER = Path(__file__).resolve().parents[2] / "charts" / "everloop" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in FILES}
ALIAS = "tiny"
EMPTY_WITHOUT_TROUBLE = {"Reconciler: problems"}
"""Panels that show nothing while nothing is wrong."""


def panels_of(name: str) -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARDS[name]["panels"] if panel["type"] != "row"]


QUERIES = [
    pytest.param(panel, target["expr"], id=f"{name}: {panel['title']} {target['refId']}")
    for name in DASHBOARDS
    for panel in panels_of(name)
    for target in panel["targets"]
]


@pytest.mark.services
def test_what_is_committed_is_what_is_generated() -> None:
    uv = shutil.which("uv") or str(FOLDER.parents[2] / ".tools" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.skip("no uv: `make setup` brings it")
    done = subprocess.run(
        [uv, "run", "--no-project", "--script", str(FOLDER / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_whole(name: str) -> None:
    dashboard = DASHBOARDS[name]
    ids = [panel["id"] for panel in dashboard["panels"]]

    assert dashboard["uid"] == name
    assert len(set(ids)) == len(ids)
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource", "alias"]
    for panel in panels_of(name):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs == sorted(set(refs)), panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_neither_overlap_nor_leave_the_page(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}

        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


class Loop:
    """An alias with a champion, a canary under way, a drift alarm and a retraining, in logs; and traffic for them."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(f"file://{folder}")
        self.router = RouterMetrics()
        self.reconciler = CollectorRegistry()
        self.drift, self.collector = DriftCollector(), LoopCollector(self.store)
        self.reconciler.register(self.drift)
        self.reconciler.register(self.collector)
        self.release = self._release()
        self._watch()
        self._retrain()
        self._random = random.Random(7)

    def _release(self) -> Log[ReleaseState]:
        log = open_release_log(self.store, ALIAS)
        for version in ("v1", "v2"):
            model = ReleasedModel(version, TreeRef(version.rjust(64, "0"), 10, 2), {"lr": 0.1}, "pages@v1", "run-1")
            log.append(
                releases.open_rollout(
                    rollout_id=f"rollout-{version}",
                    challenger=model,
                    run_id="run-1",
                    epoch=1,
                    at=time.time(),
                    deadline_at=time.time() + 3600,
                    limits=Limits(ttft_s=1.0),
                    stage="smoke" if version == "v1" else "canary",
                    weight=0.0 if version == "v1" else 0.25,
                    serving={},
                )
            )
            if version == "v1":
                log.append(
                    releases.promote("rollout-v1", "v1", epoch=1, at=time.time(), reasons=("the first release",))
                )
        evidence = Evidence(
            look="look-1",
            at=time.time(),
            step=0,
            requests={"champion": 90, "challenger": 30},
            units={"champion": 90, "challenger": 30},
            bad={"failed": {"champion": 0, "challenger": 1}},
            e_values={"failed": 3.0, "slow": 1.2},
            e_value=2.1,
            upper_bound=0.2,
        )
        log.append(releases.record_evidence("rollout-v2", evidence, epoch=1))
        return log

    def _watch(self) -> None:
        log = open_monitor_log(self.store, ALIAS)
        watched = {
            "token": "t",
            "champion": "v1",
            "reference": asdict(BlobRef("0" * 64, 1)),
            "run_id": "run-1",
            "run_length": 2000.0,
            "measured_run_length": 2100.0,
            "at": time.time(),
            "num_traffic": 500,
            "num_documents": 500,
            "warnings": [],
        }
        log.append(lambda _: Draft("watched", {"watched": watched, "cursors": {}, "sessions": []}))
        alarm = {
            "detector": "prompt_mmd",
            "statistic": 0.3,
            "threshold": 0.2,
            "number": 1,
            "num_prompts": 400,
            "at": time.time(),
            "detail": {},
            "examples": [],
        }
        scanned = {
            "cursors": {},
            "sessions": [],
            "detectors": {},
            "readings": {
                "prompt_mmd": {"statistic": 0.3, "threshold": 0.2},
                "length_ks": {"statistic": 0.1, "threshold": 0.4},
            },
            "num_prompts": 400,
            "num_skipped": 0,
            "num_raised": {"prompt_mmd": 1},
            "alarms": [alarm],
        }  # fmt: skip
        log.append(lambda _: Draft("scanned", scanned))
        self.monitor = log

    def _retrain(self) -> None:
        log, policy, now = open_signal_log(self.store, ALIAS), SignalPolicy(), time.time()
        first = signal(ALIAS, "drift", window="w1", champion="v1")
        admitted = admit(log, first, policy, now=now - 7200)
        finished(log, admitted.run_id, "promoted", policy, now=now - 3600, champion="v1")  # type: ignore[union-attr]
        admit(log, signal(ALIAS, "schedule", window="w2", champion="v1"), policy, now=now)
        raise_signal(log, signal(ALIAS, "data", window="v3", champion="v1"), now=now)
        begun = WorkflowLoop(self.store.uri).start_by_hand(load("nano", None, [f"deploy.alias={ALIAS}"]), by="ann")
        log.refresh()
        advanced(log, begun.run_id, "canary")
        self.signals = log

    def tell(self, url: str) -> None:
        """Delivers what has happened so far, and takes down the end of a round."""
        dispatcher = Dispatcher(self.store, [Receiver.model_validate({"url": url, "secret": "whsec_" + "bjg0" * 8})])
        dispatcher.round()
        assert dispatcher.wait(60)
        self.collector.succeeded(time.time())

    def traffic(self) -> None:
        """What half a second of requests leaves behind."""
        chance = self._random
        for _ in range(10):
            variant, version = chance.choice(
                [("champion", "v1"), ("champion", "v1"), ("canary", "v2"), ("shadow", "v2")]
            )
            failed = variant != "champion" and chance.random() < 0.2
            outcome = Outcome(
                request_id=f"{chance.random()}",
                session="s",
                at=time.time(),
                variant=variant,  # type: ignore[arg-type]
                version=version,
                status=500 if failed else 200,
                ttft_s=None if failed else chance.lognormvariate(-3, 0.5),
                tpot_s=None if failed else chance.lognormvariate(-4.5, 0.3),
                num_prompt_tokens=chance.randrange(10, 60),
                num_tokens=chance.randrange(5, 40),
                finish_reason="error" if failed else "stop",
                bad=("failed",) if failed else ("slow",) if chance.random() < 0.1 else (),
            )
            self.router.observe(ALIAS, outcome)
            if failed and variant == "canary":
                self.router.fallbacks.labels(ALIAS).inc()
        self.router.refused.labels(ALIAS, "full").inc()
        self.router.shadow_dropped.labels(ALIAS).inc()
        self.router.unscored.labels(ALIAS).inc()
        self.router.outcomes_lost.labels(ALIAS).set(0)
        self.router.in_flight.set(chance.randrange(1, 6))
        self.router.log_age.set(chance.random())
        self.router.follow(ALIAS, self.release.state)
        self.drift.follow(ALIAS, self.monitor.state, self.signals.state, time.time())


class Exporter(ThreadingHTTPServer):
    """Serves the metrics pages of a router and of a reconciler, as those processes do."""

    daemon_threads = True

    def __init__(self, loop: Loop) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.loop = loop


class _Pages(BaseHTTPRequestHandler):
    server: Exporter

    def do_GET(self) -> None:
        loop = self.server.loop
        page = loop.router.page() if self.path == "/router" else generate_latest(loop.reconciler)
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:  # type: ignore[override]
        pass


@pytest.fixture(scope="module")
def prometheus(make_site: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with half a minute of data of everything."""
    site = make_site()
    loop = Loop(tmp_path_factory.mktemp("loop"))
    exporter, over = Exporter(loop), threading.Event()
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    port = exporter.server_address[1]
    targets = site.state / "services" / "prometheus" / "targets"
    targets.mkdir(parents=True)
    loop.tell(f"http://127.0.0.1:{port}/told")
    pages = {"endpoint": "/router", "reconciler": "/reconciler"}
    found = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"job": job, "__metrics_path__": path}}
        for job, path in pages.items()
    ]
    (targets / "endpoint.json").write_text(json.dumps(found))
    site.run("up", "--only", "minio,triggers,prometheus")
    key = site.told("env")["EVERLOOP_API_KEY"]

    def drive() -> None:
        while not over.wait(0.5):
            loop.traffic()
            request = urllib.request.Request(
                site.url("triggers") + "/v1/runs", headers={"authorization": f"Bearer {key}"}
            )
            with urllib.request.urlopen(request, timeout=30):
                pass

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        _await(site.url("prometheus"), 'count_over_time(everloop_requests_total{variant="canary"}[5m]) > 20')
        _await(site.url("prometheus"), "count_over_time(everloop_door_requests_total[5m]) > 5")
        _await(site.url("prometheus"), "minio_cluster_usage_total_bytes")
        yield site.url("prometheus")
    finally:
        over.set()
        driver.join()
        exporter.shutdown()
        exporter.server_close()


def _await(url: str, query: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if drawing().asked(url, query, start=time.time() - 1, end=time.time()):
            return
        time.sleep(0.5)
    pytest.fail(f"no data: {query}")


def drawing() -> ModuleType:
    """The module that draws: not in a package, so it is loaded by path."""
    return load_script(FOLDER / "draw.py", "dashboard_drawing")


@pytest.mark.services
@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_a_query_has_an_answer(prometheus: str, panel: Mapping[str, Any], query: str) -> None:
    module = drawing()
    concrete = module.concrete(query, alias=".*", rate_interval_s=10)
    found = module.asked(prometheus, concrete, start=time.time() - 10, end=time.time())
    values = [float(value) for _, points in found for _, value in points]

    if panel["title"] in EMPTY_WITHOUT_TROUBLE:
        return
    assert [value for value in values if value == value], f"nothing from {concrete}"


@pytest.mark.services
@pytest.mark.parametrize(("panel", "query"), QUERIES)
def test_a_legend_names_labels_that_are_there(prometheus: str, panel: Mapping[str, Any], query: str) -> None:
    module = drawing()
    legend = next(target["legendFormat"] for target in panel["targets"] if target["expr"] == query)
    found = module.asked(
        prometheus, module.concrete(query, alias=".*", rate_interval_s=10), start=time.time() - 10, end=time.time()
    )

    for labels, _ in found:
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= set(labels)


@pytest.mark.services
def test_the_dashboards_can_be_drawn(prometheus: str, tmp_path: Path) -> None:
    arguments = [prometheus, str(tmp_path), "--minutes", "0.5", "--rate-interval-s", "10"]

    assert drawing().main(arguments) == 0
    for name in DASHBOARDS:
        picture = (tmp_path / f"{name}.svg").read_text()
        assert picture.count("<path") > 100
