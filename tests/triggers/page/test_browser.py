"""The page in a real Chromium: sign in, see the run, approve it; a decision is recorded once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

pytestmark = pytest.mark.browser
DEADLINE_S = 60.0


@pytest.fixture
def site(durable: Any) -> Iterator[str]:
    """The door, listening on loopback."""
    config = uvicorn.Config(durable.client.app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(DEADLINE_S)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
    return found


def sign_in(browser: Any, site: str, key: str, path: str = "/") -> None:
    browser.get(site + path)
    browser.find_element("id", "key").send_keys(key)
    browser.find_element("css selector", "button.primary").click()
    wait_for(lambda: browser.find_elements("css selector", ".who"))


def test_a_person_signs_in_sees_the_gate_and_opens_it_once(durable: Any, site: str, browser: Any) -> None:
    run_id = durable.waiting()
    durable.launched.clear()
    sign_in(browser, site, durable.keys["Person::ann"])
    gate = browser.find_element("css selector", ".gate")
    assert run_id in gate.text
    assert "verdict promote for version 1" in gate.text
    cookie = browser.get_cookie("everloop_session")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    gate.find_element("name", "reason").send_keys("the samples read well")
    # Two clicks before the browser has left the page.
    browser.execute_script("const button = document.querySelector('.gate .primary'); button.click(); button.click();")
    wait_for(lambda: "/runs/" in browser.current_url and "Waiting" not in browser.page_source)

    decisions = durable.records(run_id, "decided")
    assert [(each["approved"], each["by"], each["reason"]) for each in decisions] == [
        (True, "Person::ann", "the samples read well")
    ]
    assert durable.launched == [run_id]
    told = [entry["message"] for entry in browser.get_log("browser")]
    assert [text for text in told if "Content Security Policy" in text or "Uncaught" in text] == []


def test_the_page_follows_the_run_without_being_asked(durable: Any, site: str, browser: Any) -> None:
    run_id = durable.start()
    sign_in(browser, site, durable.keys["Person::vic"], f"/runs/{run_id}")
    assert "pending" in browser.find_element("css selector", "h1 .badge").text

    durable.walk(run_id, "scrape", "validate")

    wait_for(lambda: browser.execute_script("return document.querySelector('h1 .badge').textContent") == "running")
    rows = wait_for(lambda: browser.find_elements("css selector", ".steps .badge.succeeded"))
    assert len(rows) == 2
    assert browser.find_element("id", "live").is_displayed()


def test_a_link_of_a_message_leads_to_its_question(durable: Any, site: str, browser: Any) -> None:
    run_id = durable.waiting()
    wait = durable.loop.engine.view(run_id).waits[0]
    token = durable.access.approvals.issue(run_id, wait.name, wait.subject, team="local", protected=False, authors=())
    sign_in(browser, site, durable.keys["Person::ann"], f"/v1/approvals/{token}")
    assert durable.records(run_id, "decided") == []

    browser.find_element("css selector", ".danger").click()
    wait_for(lambda: "/runs/" in browser.current_url)

    assert [each["approved"] for each in durable.records(run_id, "decided")] == [False]
    browser.get(f"{site}/approvals/{token}")
    assert "Rejected by Person::ann" in browser.find_element("id", "main").text


def test_a_text_from_outside_stays_text(durable: Any, site: str, browser: Any) -> None:
    attack = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    durable.send("Person::olga", "POST", "/v1/runs", {"recipe": "nano", "reason": attack})
    sign_in(browser, site, durable.keys["Person::vic"])
    assert attack in browser.find_element("id", "main").text
    assert browser.title == "Everloop"
