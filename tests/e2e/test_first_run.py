"""One command, from pages to an answering endpoint."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

STEPS = ["scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor"]


def test_all_eight_steps_succeed_and_the_first_model_is_released(released: tuple[Any, dict[str, Any]]) -> None:
    _, summary = released

    assert summary["status"] == "succeeded"
    assert [step["name"] for step in summary["steps"]][:8] == STEPS
    assert {step["status"] for step in summary["steps"]} == {"succeeded"}
    assert (summary["dataset_version"], summary["model_version"]) == ("nano@v1", "1")
    assert (summary["verdict"], summary["release"]) == ("promote", "promoted")
    assert summary["scores"]["heldout_loss"] < summary["scores"]["unigram_loss"]


def test_the_endpoint_answers_curl_and_streams(released: tuple[Any, dict[str, Any]]) -> None:
    loop, summary = released

    # Twenty steps of training leave a model that now and then ends before its first word.
    answers = [loop.complete(summary["endpoint"], "nano") for _ in range(8)]
    assert any(answer["choices"][0]["text"] for answer in answers)
    assert any(answer["usage"]["completion_tokens"] > 0 for answer in answers)

    streams = [_streamed(summary["endpoint"]) for _ in range(8)]
    assert all(events[-1] == "[DONE]" for events in streams)
    assert any(len(events) > 2 for events in streams)


def _streamed(endpoint: str) -> list[str]:
    body = json.dumps({"model": "nano", "prompt": "The", "max_tokens": 8, "stream": True}).encode()
    request = urllib.request.Request(f"{endpoint}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as stream:
        return [line[6:] for line in stream.read().decode().splitlines() if line.startswith("data: ")]


def test_the_official_client_works(released: tuple[Any, dict[str, Any]]) -> None:
    import openai

    _, summary = released
    with openai.OpenAI(base_url=f"{summary['endpoint']}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["nano"]
        chat = client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "Hello"}], max_tokens=8
        )
        chunks = list(client.completions.create(model="nano", prompt="The", max_tokens=8, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="nobody", prompt="The")

    assert chat.model == "nano"
    assert chat.usage is not None
    assert {chunk.model for chunk in chunks} == {"nano"}


def test_the_report_shows_every_step(released: tuple[Any, dict[str, Any]]) -> None:
    _, summary = released
    page = Path(summary["report"]).read_text()

    for part in ("Crawl", "Cleaning", "Dataset nano@v1", "Tuning", "Model nano v1", "Evaluation", "Release", "Drift"):
        assert part in page
    assert page.count("<svg") >= 5
    assert "http://" not in page.replace(summary["endpoint"], "").replace("http://www.w3.org", "").replace(
        "http://127.0.0.1", ""
    ).replace("http://purl.org", "").replace("http://creativecommons.org", "")


def test_metrics_are_there_for_prometheus(released: tuple[Any, dict[str, Any]]) -> None:
    loop, summary = released
    loop.complete(summary["endpoint"], "nano")

    with urllib.request.urlopen(f"{summary['endpoint']}/metrics", timeout=30) as answer:
        text = answer.read().decode()

    assert "everloop_requests_total{" in text


def test_the_history_verifies_and_the_run_is_listed(released: tuple[Any, dict[str, Any]]) -> None:
    loop, summary = released

    assert json.loads(loop.call("workflows.runs", "verify", summary["run_id"], "--json"))["ok"]
    listed = json.loads(loop.call("workflows.runs", "list", "--json"))
    assert [run["run_id"] for run in listed] == [summary["run_id"]]
    shown = json.loads(loop.call("workflows.runs", "show", summary["run_id"], "--json"))
    assert {key: shown[key] for key in ("status", "dataset_version", "verdict")} == {
        key: summary[key] for key in ("status", "dataset_version", "verdict")
    }


def test_a_finished_run_is_resumed_without_running_anything(released: tuple[Any, dict[str, Any]]) -> None:
    loop, summary = released

    again = loop.run("--resume", summary["run_id"])

    assert [(s["name"], s["attempts"]) for s in again["steps"]] == [
        (s["name"], s["attempts"]) for s in summary["steps"]
    ]
