"""vLLM on CPUs serves what a run has trained, and alibi-detect watches it: one release in a namespace of its own.

Needs the images `ray-vllm` and `drift` besides those of every release. The tests follow each other in the order of this
file.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.cluster.asking import STEPS, ask, finished, submit
from tests.cluster.conftest import Cluster, install

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RUN = "by-vllm"
NUM_ASKED = 16
SETTINGS = (
    "deploy.serving.engine=vllm",
    "deploy.serving.ready_s=1500",
    "model.num_heads=2",  # vLLM's kernels for CPUs know no heads as small as the recipe's
    "model.num_kv_heads=1",
    "monitor.engine=alibi-cvm",
)

STREAM = """
import json, time, urllib.request
headers = {{"content-type": "application/json", "authorization": "Bearer {key}"}}
body = {{"model": "nano", "prompt": {prompt!r}, "max_tokens": 12, "stream": True}}
body["stream_options"] = {{"include_usage": True}}
began, first, texts, usage, done = time.monotonic(), None, [], None, False
request = urllib.request.Request("http://el-gateway/v1/completions", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request, timeout=300) as answer:
    for line in answer:
        data = line.decode().strip().removeprefix("data: ")
        done = done or data == "[DONE]"
        if not data or data == "[DONE]":
            continue
        event = json.loads(data)
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            if choice["text"]:
                first = first or time.monotonic() - began
                texts.append(choice["text"])
print(json.dumps([first, time.monotonic() - began, texts, usage, done]))
"""

PROCESSES = """
import json, pathlib
found = {}
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        name = (folder / "cmdline").read_bytes().replace(b"\\0", b" ").decode().strip()
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        continue
    if "vllm" in name.lower() or "LLMServer" in name:
        found[name[:60]] = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024
print(json.dumps(found))
"""

SERVED = """
import json, ray
from ray import serve
ray.init(address="auto", logging_level="ERROR")
found = {name: list(app.deployments) for name, app in serve.status().applications.items()}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def release(fresh_namespace: Cluster) -> Cluster:
    """The release `el` with the two images."""
    for role in ("ray-vllm", "drift"):
        if not fresh_namespace.has_image(role):
            pytest.skip(f"the cluster has no image {role}: images/build.sh {role}, and load it")
    chosen = ("ray.image=ray-vllm", "drift.enabled=true", "triggers.aliases.nano.recipe=nano")
    install(fresh_namespace, *(argument for change in chosen for argument in ("--set", change)))
    return fresh_namespace


def stream(cluster: Cluster, prompt: str) -> tuple[float, float, list[str], dict[str, int], bool]:
    """Seconds to the first token and to the last, the pieces, the usage, and whether the end was told."""
    script = STREAM.format(key=cluster.secret("api-key-endpoint"), prompt=prompt)
    first, total, texts, usage, done = json.loads(
        cluster.run_in("deploy/el-triggers", "triggers", script, timeout_s=330)
    )
    return first, total, texts, usage, done


def query(cluster: Cluster, expression: str) -> float:
    """The value of a PromQL expression of one sample; 0 if there is none."""
    _, answer = ask(cluster, f"http://el-prometheus:9090/api/v1/query?query={quote(expression)}")
    return sum(float(sample["value"][1]) for sample in answer["data"]["result"])


def vllm_processes(cluster: Cluster) -> dict[str, int]:
    """Resident MB of each process of vLLM in the Ray pods, shared pages divided among those that share them."""
    found: dict[str, int] = {}
    for kind in ("head", "worker"):
        pods = cluster.get("pods", "-l", f"ray.io/node-type={kind}")["items"]
        for pod in pods:
            script = cluster.run_in(pod["metadata"]["name"], f"ray-{kind}", PROCESSES)
            found |= json.loads(script.splitlines()[-1])
    return found


def test_a_run_releases_a_model_on_vllm(release: Cluster) -> None:
    began = time.monotonic()
    submit(release, RUN, *(part for setting in SETTINGS for part in ("--set", setting)))
    run = release.wait("the run has succeeded", lambda: finished(release, RUN), timeout_s=3000)
    print(f"the run took {time.monotonic() - began:.0f} s")
    steps: dict[str, Any] = {step["name"]: step for step in run["steps"]}
    assert set(steps) >= STEPS
    for name in ("deploy", "monitor"):
        print(f"{name} took {steps[name]['finished_at'] - steps[name]['started_at']:.0f} s")
    served = json.loads(release.run_in(release.head(), "ray-head", SERVED).splitlines()[-1])
    models = {name: deployments for name, deployments in served.items() if "-router" not in name}
    assert len(models) == 1, served
    for deployments in models.values():
        assert any("LLMServer" in name for name in deployments), deployments


def test_answers_are_streamed_and_vllm_has_counted_their_tokens(release: Cluster) -> None:
    counted = "sum(ray_vllm_generation_tokens_total)"
    first_s, firsts, num_tokens = None, [], 0
    for index in range(NUM_ASKED):
        first, total, texts, usage, done = stream(release, f"The {index}")
        assert done
        assert usage["completion_tokens"] >= 1
        num_tokens += usage["completion_tokens"]
        firsts.append(first)
        first_s = first_s or first
        if usage["completion_tokens"] > 3:
            assert len(texts) > 1, "one piece is no stream"
            assert first < total
    median = sorted(firsts)[len(firsts) // 2]
    print(f"first token after {median * 1000:.0f} ms (median of {NUM_ASKED}; of the first request: {first_s:.2f} s)")
    release.wait("vLLM's own counter has them", lambda: query(release, counted) >= num_tokens, timeout_s=180)
    print(f"vLLM has counted {query(release, counted):.0f} tokens, {num_tokens} of them asked for here")


def test_memory_of_vllm_is_told(release: Cluster) -> None:
    found = vllm_processes(release)
    print(f"memory of vLLM in MB: {found}, together {sum(found.values())}")
    assert sum(found.values()) > 100


def test_alibi_detect_was_fitted_by_the_run_and_scores_the_traffic(release: Cluster) -> None:
    threshold = 'sum(everloop_drift_threshold{alias="nano",detector="prompt_alibi_cvm"})'
    release.wait("the reconciler has scored", lambda: query(release, threshold) > 0, timeout_s=600)
