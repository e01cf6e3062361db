"""The endpoint on a real Ray Serve: one start, shared by all tests of this file."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from steps.common import releases
from steps.common.alone import AloneContext
from steps.common.outcomes import OutcomeReader
from steps.common.releases import Limits, ReleasedModel, open_release_log
from steps.common.results import Evaluation, ModelVersion
from steps.deploy import DeployConfig, ServingConfig, begin, converge, finish, look
from steps.deploy.converge import follow_now
from steps.deploy.naming import application_name
from workflows.log import BlobRef

# Ray Serve itself uses what pydantic has deprecated.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

ALIAS = "demo"
NOTHING = BlobRef("0" * 64, 1)
CONFIG = DeployConfig(
    alias=ALIAS,
    serving=ServingConfig(max_batch=8, max_in_flight=24, replica_cpus=0.1, challenger_first_token_s=30),
    weights=(0.5,),
    min_units=5,
    min_step_s=0,
    look_every_s=1.2,
    max_failed_rate=0.3,
    slow_ttft_s=None,
    slow_tpot_s=None,
    timeout_s=120,
)


@dataclass
class Served:
    """An endpoint with a first release."""

    storage: str
    url: str
    folder: Path
    save: Callable[..., Path]

    def model(self, version: str, **settings: Any) -> ModelVersion:
        ctx = AloneContext(self.storage, step="models", inputs=version)
        return ModelVersion(
            name="demo",
            version=version,
            model=ctx.blobs.put_tree(self.save(self.folder / f"model-{version}", **settings)),
            dataset="pages@v1",
            dataset_digest="0" * 64,
            params={},
            num_parameters=1,
            num_tokens=1,
            num_steps=1,
            train_loss=1.0,
            heldout_loss=1.0,
            unigram_loss=2.0,
            loss_curve=NOTHING,
            mlflow_run_id="none",
            seconds=1.0,
        )

    def released(self, version: str, **settings: Any) -> ReleasedModel:
        model = self.model(version, **settings)
        return ReleasedModel(version, model.model, {}, model.dataset, "run-1")

    def ctx(self, name: str) -> AloneContext:
        return AloneContext(self.storage, step="deploy", inputs=name)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json", **headers})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def complete(self, prompt: str = "the", **settings: Any) -> tuple[int, Mapping[str, str], bytes]:
        headers = {name.replace("_", "-"): settings.pop(name) for name in list(settings) if name.startswith("x_")}
        return self.post("/v1/completions", {"model": ALIAS, "prompt": prompt, "max_tokens": 8, **settings}, **headers)


def evaluation(version: str, verdict: Any = "promote") -> Evaluation:
    return Evaluation(
        verdict=verdict,
        reasons=("as asked",),
        challenger=version,
        champion=None,
        perplexity=1.0,
        champion_perplexity=None,
        loss_difference=None,
        num_documents=1,
        scores=NOTHING,
        samples=(),
    )


def wait_until(condition: Callable[[], Any], what: str, limit_s: float = 120) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {limit_s:g} s for {what}")


@pytest.fixture(scope="module")
def served(
    ray_head: str, tmp_path_factory: pytest.TempPathFactory, save_model_folder: Callable[..., Path]
) -> Iterator[Served]:
    from ray import serve

    folder = tmp_path_factory.mktemp("serving")
    made = Served(f"file://{folder}/storage", "", folder, save_model_folder)
    ctx = made.ctx("first")
    rollout = begin(CONFIG, made.model("1", seed=1), evaluation("1"), ctx)
    release = finish(CONFIG, rollout, ctx)
    assert (release.state, release.champion) == ("promoted", "1")
    made.url = release.endpoint
    yield made
    serve.shutdown()


@dataclass
class Load:
    """Clients that ask without a pause; each request is a session of its own."""

    served: Served
    num_clients: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    answers: list[tuple[int, str, bytes]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.num_clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, num_answers: int) -> None:
        wanted = len(self.answers) + num_answers
        wait_until(lambda: len(self.answers) >= wanted, f"{num_answers} more answers")

    def _ask(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            status, headers, body = self.served.complete(x_session_id=f"{client}-{number}", **self.settings)
            self.answers.append((status, headers.get("x-variant", ""), body))


def test_completions_and_chats_answer_whole_and_streamed(served: Served) -> None:
    status, headers, body = served.complete("the quick", seed=1)
    answer = json.loads(body)
    assert status == 200
    assert headers["x-variant"] == "champion"
    assert answer["model"] == ALIAS
    assert answer["usage"]["completion_tokens"] <= 8
    again = json.loads(served.complete("the quick", seed=1)[2])
    assert again["choices"][0]["text"] == answer["choices"][0]["text"]
    chat = {"model": ALIAS, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "stream": True}
    status, _, body = served.post("/v1/chat/completions", {**chat, "stream_options": {"include_usage": True}})
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert status == 200
    assert events[-1] == b"[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {ALIAS}
    assert chunks[-1]["usage"]["completion_tokens"] <= 5


def test_the_official_client_works(served: Served) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [ALIAS]
        completion = client.completions.create(model=ALIAS, prompt="the", max_tokens=6, temperature=0)
        assert completion.usage.completion_tokens <= 6
        with client.chat.completions.create(
            model=ALIAS,
            messages=[{"role": "user", "content": "the"}],
            max_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            chunks = list(stream)
        assert chunks[-1].usage.completion_tokens <= 6
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] in {"stop", "length"}
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.completions.create(model="nobody", prompt="the")
        with pytest.raises(openai.BadRequestError, match="context"):
            client.completions.create(model=ALIAS, prompt="x y " * 500)


def test_converging_again_changes_nothing_and_keeps_the_url(served: Served) -> None:
    again = converge(served.storage, ALIAS)
    assert (again.url, again.started, again.removed, again.champion) == (served.url, (), (), "1")


def test_outcomes_are_in_the_log_and_the_metrics(served: Served) -> None:
    request_id = dict(served.complete("once upon a time")[1])["x-request-id"]
    found = wait_until(
        lambda: [o for o in OutcomeReader(open_store_of(served), ALIAS).read() if o.request_id == request_id],
        "the outcome",
    )
    assert (found[0].variant, found[0].version, found[0].prompt) == ("champion", "1", "once upon a time")
    assert found[0].ttft_s > 0
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=60) as page:
        text = page.read().decode()
    assert 'everloop_requests_total{alias="demo",outcome="ok",variant="champion",version="1"}' in text


def open_store_of(served: Served) -> Any:
    return served.ctx("reader").store


def replica_ids() -> set[str]:
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()
    return {
        replica["replica_id"]
        for application in details["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
    }


def pid_of(application: str) -> int | None:
    """Process of the only replica; None while an old one stops or a new one has not told its own yet."""
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()["applications"][application]
    replicas = details["deployments"]["model"]["replicas"]
    return replicas[0].get("pid") if len(replicas) == 1 else None


def test_twenty_weight_changes_break_no_stream_and_keep_the_replicas(served: Served) -> None:
    log = open_release_log(open_store_of(served), ALIAS)
    opened = releases.open_rollout(
        rollout_id="weights",
        challenger=served.released("2", seed=2),
        run_id="run-1",
        epoch=1,
        at=0.0,
        deadline_at=1e12,
        limits=Limits(),
        stage="canary",
        weight=0.05,
        serving=CONFIG.serving.model_dump(mode="json"),
    )
    log.append(opened)
    converge(served.storage, ALIAS)
    challenger = application_name(served.storage, ALIAS, "2")
    wait_until(lambda: status_of(challenger) == "RUNNING", "the challenger")
    before = replica_ids()
    with Load(served, 6, {"stream": True, "max_tokens": 60, "temperature": 0.5}) as load:
        for step in range(1, 21):
            load.wait_for(2)
            log.append(
                releases.set_weight("weights", epoch=1, step=step, stage="canary", weight=0.05 + step * 0.03, at=0.0)
            )
            follow_now(served.storage, ALIAS)
        load.wait_for(10)
    assert {status for status, _, _ in load.answers} == {200}
    assert all(body.endswith(b"data: [DONE]\n\n") for _, _, body in load.answers)
    assert {variant for _, variant, _ in load.answers} == {"champion", "canary"}
    assert replica_ids() == before
    log.append(releases.abort("weights", by="the test", at=0.0))
    wait_until(lambda: converge(served.storage, ALIAS).removed, "the removal")


def status_of(application: str) -> str:
    from ray import serve

    found = serve.status().applications.get(application)
    return "" if found is None else str(found.status.value)


def test_a_sabotaged_challenger_is_rolled_back_and_no_client_notices(served: Served) -> None:
    # Its tokenizer knows more tokens than the model: some prompts work, others raise inside the model.
    broken = served.model("3", seed=3, missing_tokens=20)
    rollout = begin(CONFIG, broken, evaluation("3"), served.ctx("sabotage"))
    assert not rollout.done
    with Load(served, 4, {"prompt": "the lazy dog jumps over the string"}) as load:
        number = 0
        while not rollout.done and number < 60:
            number += 1
            load.wait_for(10)
            rollout = look(CONFIG, rollout, None, served.ctx(f"sabotage-{number}"))
    release = finish(CONFIG, rollout, served.ctx("sabotage-end"))
    assert (release.state, release.champion, release.challenger) == ("rolled_back", "1", "3")
    assert "'failed'" in release.reasons[0]
    assert {status for status, _, _ in load.answers} == {200}
    assert status_of(application_name(served.storage, ALIAS, "3")) in {"", "DELETING"}
    with pytest.raises(releases.VersionCondemned):
        begin(CONFIG, broken, evaluation("3"), served.ctx("sabotage-again"))


def test_a_damaged_challenger_is_rolled_back_at_once(served: Served) -> None:
    rollout = begin(CONFIG, served.model("4", seed=4, damaged=True), evaluation("4"), served.ctx("damaged"))
    release = finish(CONFIG, rollout, served.ctx("damaged-end"))
    assert (release.state, release.champion) == ("rolled_back", "1")
    assert "digest differs from the manifest" in release.reasons[0]
    assert served.complete()[0] == 200


def test_a_killed_replica_of_the_champion_costs_time_and_no_request(served: Served) -> None:
    application = application_name(served.storage, ALIAS, "1")
    with Load(served, 3) as load:
        load.wait_for(5)
        pid = pid_of(application)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: status_of(application) == "RUNNING" and pid_of(application) not in (None, pid), "a new replica"
        )
        load.wait_for(10)
    assert {status for status, _, _ in load.answers} == {200}


def test_what_evaluation_held_is_not_released(served: Served) -> None:
    rollout = begin(CONFIG, served.model("1", seed=1), evaluation("9", "hold"), served.ctx("held"))
    release = finish(CONFIG, rollout, served.ctx("held-end"))
    assert (release.state, release.champion, release.rollout_id) == ("unchanged", "1", None)
