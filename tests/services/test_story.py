"""Hands off but for one click: Airflow's schedule starts a round on MinIO, n8n asks a person, the click releases it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.services.whole_set import WholeSet, until, whole_set

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(3000)]

# A person is asked before each release. The same pages trained anew are no better, so "not much worse" must do.
OVERRIDES = (
    "approval.required=true",
    "signals.cooldown_s=0",
    "tune.num_trials=1",
    "train.num_steps=40",
    "evaluate.margin=0.5",
    "monitor.run_length=1000",
)
STEPS = {"scrape", "validate", "version", "tune", "train", "evaluate", "deploy", "monitor"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSet]:
    with whole_set(tmp_path_factory.mktemp("whole"), overrides=OVERRIDES, cron="* * * * *") as made:
        yield made


def approve(whole: WholeSet, browser: Any, run_id: str) -> None:
    """Opens the link that the chat was sent, signs in if asked to, and clicks."""
    text = until("the question in the chat", lambda: [t for t in whole.outside.chat(run_id) if "Look and decide" in t])
    link = re.findall(r"<(\S+)\|Look and decide>", text[0])[0]
    until("the question by mail", lambda: [mail for mail in whole.outside.mail(run_id) if "Look and decide" in mail])
    browser.get(link)
    if keys := browser.find_elements("id", "key"):
        keys[0].send_keys(whole.key())
        browser.find_element("css selector", "button.primary").click()
    gate = until("the question on the page", lambda: browser.find_elements("css selector", ".gate .primary"), 60)
    began = time.monotonic()
    gate[0].click()
    until("the decision on the page", lambda: "/runs/" in browser.current_url, 60)
    whole.say(f"approved by a click in Chromium, {time.monotonic() - began:.1f} s")


def test_a_schedule_starts_the_loop_and_a_click_releases_the_canary(whole: WholeSet, browser: Any) -> None:
    began = time.monotonic()

    def passed(what: str) -> None:
        whole.say(f"{time.monotonic() - began:6.1f} s  {what}")

    first = until("a run by Airflow's schedule", whole.runs)[0]
    passed("the schedule has started the first run")
    until("its training", whole.at_step(first, "train"))
    whole.say_memory("while training")
    until("the first question", lambda: whole.told(first)["approval.requested"])
    passed("the chat was asked for the first release")
    approve(whole, browser, first)
    assert {step.name for step in whole.finished(first).steps} >= STEPS
    passed("the first release answers")
    champion = whole.release.champion.version

    second = until("the next run by the schedule", lambda: whole.runs()[1:])[0]
    passed("the schedule has started the second run")
    until("the second question", lambda: whole.told(second)["approval.requested"])
    passed("the chat was asked for the second release")
    assert not whole.at_step(second, "deploy")(), "nothing is released before a person has agreed"
    assert whole.release.champion.version == champion
    approve(whole, browser, second)
    until("the canary", lambda: whole.release.challenger, 300)
    passed("the canary answers a part of the requests")
    whole.finished(second)
    passed("the second run is over")
    assert whole.release.champion.version != champion, whole.told(second)

    for run_id in (first, second):
        until(f"the end of {run_id} in the chat", lambda run_id=run_id: whole.told(run_id)["run.succeeded"], 120)  # type: ignore[misc]
        told = whole.told(run_id)
        assert (told["run.started"], told["approval.requested"], told["run.succeeded"]) == (1, 1, 1), told
        assert whole.problems_of(run_id) == []
    assert whole.told(second)["canary.promoted"] == 1, whole.told(second)
    scheduled = whole.airflow("GET", "/dags/everloop_loop/dagRuns?order_by=run_after")["dag_runs"]
    assert {run["run_type"] for run in scheduled} == {"scheduled"}
    until("Airflow's own word", lambda: _states(whole)[:2] == ["success", "success"], 120)
    whole.say(f"told in the chat: {dict(whole.told(first))}, {dict(whole.told(second))}")
    whole.say_memory("at the end")


def _states(whole: WholeSet) -> list[str]:
    found = whole.airflow("GET", "/dags/everloop_loop/dagRuns?order_by=run_after")["dag_runs"]
    return [run["state"] for run in found]
