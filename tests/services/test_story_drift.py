"""No person at all: an object in a bucket starts the first run, drifted traffic the second, whatever is killed."""

from __future__ import annotations

import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from steps.monitor.monitor_log import open_monitor_log
from tests.services.pages import add_reports, bundled_site, passages, texts_of
from tests.services.whole_set import ALIAS, WholeSet, kill, until, whole_set
from workflows.services import process

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(3000)]

NUM_REPORTS = 48
NUM_OBJECTS = 3
REST_S = 20
OVERRIDES = (
    "scrape.allow_private=true",
    "scrape.max_pages=100",
    f"signals.cooldown_s={REST_S}",
    "tune.num_trials=1",
    "train.num_steps=40",
    "evaluate.margin=0.2",  # what learned from fresher data may be a little worse on the old
    # Only what the test asks for counts, and enough of it to say what the new champion's own traffic looks like.
    "deploy.replay_prompts=0",
    "deploy.min_units=40",
    "deploy.min_step_s=20",
    "deploy.timeout_s=600",
    "monitor.run_length=1000",
)


class Traffic:
    """Asks the endpoint steadily, each time as another session.

    Attributes:
        seen: Answers and failures.
        drifted_at: Unix seconds of the first drifted request.
    """

    def __init__(self, url: str, prompts: Sequence[str]) -> None:
        self._url, self._prompts = url, prompts
        self._stop = threading.Event()
        self._drifted = False
        self.seen: Counter[str] = Counter()
        self.drifted_at = 0.0

    def drift(self, prompts: Sequence[str]) -> None:
        """From now on asks for something else."""
        self._prompts, self._drifted = prompts, True

    def run(self) -> None:
        number = 0
        while not self._stop.wait(0.15):
            prompt, is_drifted, number = self._prompts[number % len(self._prompts)], self._drifted, number + 1
            if is_drifted and not self.drifted_at:
                self.drifted_at = time.time()
            body = json.dumps({"model": ALIAS, "prompt": prompt, "max_tokens": 2}).encode()
            headers = {"content-type": "application/json", "x-session-id": f"user-{number}"}
            try:
                request = urllib.request.Request(f"{self._url}/v1/completions", body, headers)
                with urllib.request.urlopen(request, timeout=60) as answer:
                    self.seen["answered" if json.load(answer)["choices"] else "empty"] += 1
            except urllib.error.HTTPError as error:
                self.seen[f"failed: {error.code} {error.read()[:200]!r}"] += 1
            except OSError as error:
                self.seen[f"failed: {error}"] += 1

    @contextmanager
    def flowing(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(60)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("pages")
    with bundled_site(folder) as url:
        yield folder, url


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pages: tuple[Path, str]) -> Iterator[WholeSet]:
    overrides = (f"scrape.seeds={json.dumps([pages[1]])}", 'scrape.source="web"', *OVERRIDES)
    # Nobody is asked and nothing is due by the clock, so the two that only do that are left out.
    with whole_set(tmp_path_factory.mktemp("whole"), overrides=overrides, without="airflow,n8n") as made:
        yield made


def put_objects(whole: WholeSet, count: int) -> None:
    import minio

    address = f"127.0.0.1:{whole.site.ports['minio']}"
    user, password = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    client = minio.Minio(address, access_key=user, secret_key=password, secure=False, region="us-east-1")
    for number in range(count):
        name, data = f"pages/{number}.html", b"<p>new</p>"
        client.put_object(bucket_name="incoming", object_name=name, data=io.BytesIO(data), length=len(data))


def drift_alert(whole: WholeSet) -> dict[str, Any] | None:
    """The alert as Alertmanager has it."""
    with urllib.request.urlopen(whole.site.url("alertmanager") + "/api/v2/alerts", timeout=30) as answer:
        return next((alert for alert in json.load(answer) if alert["labels"].get("signal") == "drift"), None)


def repeat(whole: WholeSet, alert: dict[str, Any], times: int) -> Counter[str]:
    """Posts the alert to the door as Alertmanager does; what became of each."""
    told = {key: alert[key] for key in ("labels", "annotations", "startsAt", "fingerprint")} | {"status": "firing"}
    outcomes: Counter[str] = Counter()
    for _ in range(times):
        body = {"version": "4", "alerts": [told]}
        found = until(
            "the door's answer",
            lambda b=body: whole.door("POST", "/v1/hooks/alertmanager", b, "Service::alertmanager"),  # type: ignore[misc]
        )
        outcomes[found["signals"][0]["outcome"]] += 1
    return outcomes


def service(whole: WholeSet, name: str) -> dict[int, int]:
    found = process.recorded(whole.site.state / "services" / name)
    assert found is not None
    return {found.pid: found.started}


def test_new_objects_start_the_first_run(whole: WholeSet) -> None:
    began = time.monotonic()
    put_objects(whole, NUM_OBJECTS)

    run_id = until("a run by MinIO's notification", whole.runs, 120)[0]
    whole.say(f"{time.monotonic() - began:6.1f} s  new objects have started a run")
    whole.finished(run_id)
    whole.say(f"{time.monotonic() - began:6.1f} s  the first release answers")

    until("its end in the signal log", lambda: whole.signals.active is None, 60)
    assert whole.runs() == [run_id], "many objects at once are one cause for a run"
    assert whole.signals.finished[0].signal.source == "data"
    assert whole.release.champion is not None


def test_drifted_traffic_ends_in_a_promotion_whatever_is_killed(whole: WholeSet, pages: tuple[Path, str]) -> None:
    folder, _ = pages
    first, states = whole.runs(), _states(whole)
    champion = whole.release.champion.version
    endpoint = json.loads(whole.engine.store.get("serving/endpoint.json"))["url"]
    traffic = Traffic(endpoint, passages(texts_of(folder)))

    def passed(what: str) -> None:
        whole.say(f"{time.time() - traffic.drifted_at:6.1f} s  {what}")

    with traffic.flowing():
        until("steady traffic looked at", lambda: _monitor(whole).num_prompts >= 40, 300)
        assert _monitor(whole).num_confirmed == 0, "steady traffic is no drift"
        time_left = whole.signals.cooldown_until - time.time()
        until("the end of the rest", lambda: time.time() > whole.signals.cooldown_until, max(time_left, 0) + 60)
        traffic.drift(passages(add_reports(folder, NUM_REPORTS)))
        until("a drifted request", lambda: traffic.drifted_at)
        until("a confirmed alarm", lambda: _monitor(whole).num_confirmed, 300)
        passed("the alarm is confirmed")
        run_id = until("one run", lambda: [run for run in whole.runs() if run not in first], 300)[0]
        passed("a retraining run has started")
        alert = until("the alert at Alertmanager", lambda: drift_alert(whole), 120)
        passed("Alertmanager has the alert")
        repeats = repeat(whole, alert, 20)
        num_killed = kill(service(whole, "triggers"))
        passed("kill -9 of the door")
        until("training", whole.at_step(run_id, "train"))
        runners = until("a runner", lambda: whole.runners(run_id))
        num_killed += kill(runners) > 0
        passed("kill -9 of the runner, while it trained")
        repeats += repeat(whole, alert, 15)
        until("the canary", lambda: whole.release.challenger or whole.view(run_id).status == "succeeded")
        assert whole.release.challenger, whole.engine.output(run_id, "evaluate").reasons
        passed("the challenger is up")
        num_killed += kill(service(whole, "reconciler"))
        passed("kill -9 of the reconciler")
        repeats += repeat(whole, alert, 15)
        until("the promotion", lambda: whole.release.champion.version != champion)
        passed("promoted: TIME FROM THE FIRST DRIFTED REQUEST TO PROMOTION")
        whole.finished(run_id)
        passed("the run is over: the new champion is watched")
        whole.say_memory("at the end")

    assert (num_killed, sum(repeats.values())) == (3, 50)
    assert set(repeats) == {"merged"}, repeats
    assert set(traffic.seen) == {"answered"}, traffic.seen
    assert whole.runs() == [*first, run_id], "one run for all of it"
    assert whole.problems_of(run_id) == []
    evaluation = whole.engine.output(run_id, "evaluate")
    release = whole.engine.output(run_id, "deploy")
    assert (evaluation.verdict, release.state) == ("promote", "promoted"), (evaluation.reasons, release.reasons)
    whole.say(f"evaluation: {evaluation.reasons[0]}")
    whole.say(f"requests of the rollout: {dict(release.num_requests)}; of the test: {dict(traffic.seen)}")
    assert whole.releases_of(run_id)["promoted"] == 1, whole.releases_of(run_id)
    until("all back that was there", lambda: _states(whole) == states, 300)


def _states(whole: WholeSet) -> dict[str, str]:
    return {name: one["state"] for name, one in whole.site.statuses(ok=None).items()}


def _monitor(whole: WholeSet) -> Any:
    return open_monitor_log(whole.engine.store, ALIAS).refresh()
