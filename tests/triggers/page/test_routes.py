"""The page without a browser: sessions, forms, headers, and that a button asks the same authorizer as the API."""

from __future__ import annotations

import re
from typing import Any

import pytest

ANN, OLGA, VIC = "Person::ann", "Person::olga", "Person::vic"


def sign_in(durable: Any, subject: str, **fields: str) -> Any:
    durable.client.cookies.clear()
    return durable.client.post("/sign-in", data={"key": durable.keys[subject], **fields})


def form_token(durable: Any) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', durable.client.get("/").text)
    assert found
    return found[1]


def gate_form(durable: Any, run_id: str, **changes: str) -> dict[str, str]:
    digest = durable.loop.engine.view(run_id).waits[0].subject
    return {"form_token": form_token(durable), "decision": "approve", "digest": digest, "reason": "fine", **changes}


def test_nobody_sees_anything_without_signing_in(durable: Any) -> None:
    run_id = durable.start()
    for path in ("/", f"/runs/{run_id}", "/approvals/x", "/runs/none"):
        answer = durable.client.get(path)
        assert answer.status_code == 401
        assert "API key" in answer.text
        assert run_id not in answer.text.replace(path, "")
    for action in ("resume", "cancel", "gates/release"):
        assert durable.client.post(f"/runs/{run_id}/{action}").status_code == 401
    assert durable.loop.engine.view(run_id).status == "pending"


def test_a_session_is_a_cookie_that_scripts_and_other_sites_cannot_use(durable: Any) -> None:
    answer = sign_in(durable, ANN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert durable.keys[ANN] not in cookie
    assert durable.client.get("/").status_code == 200


def test_the_cookie_is_marked_secure_behind_https(open_durable: Any) -> None:
    durable = open_durable(public_url="https://loop.example.org")
    assert "; secure" in sign_in(durable, ANN).headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["", "elk_wrong", "\u00e9\u00e9\u00e9\u00e9"])
def test_a_wrong_key_opens_nothing_and_is_audited(key: str, durable: Any) -> None:
    answer = durable.client.post("/sign-in", data={"key": key})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert durable.audited()[-1]["event"] == "unauthenticated"


def test_a_program_has_no_session(durable: Any) -> None:
    assert sign_in(durable, "Service::n8n").status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        lambda cookie: cookie[:-1] + ("0" if cookie[-1] != "0" else "1"),
        lambda cookie: "x" + cookie,
        lambda cookie: cookie.replace(cookie.split(".")[1], "99999999999"),
        lambda cookie: "",
        lambda cookie: "...",
        lambda cookie: "a.b.c.d",
    ],
)
def test_a_forged_cookie_is_none(change: Any, durable: Any) -> None:
    sign_in(durable, ANN)
    cookie = durable.client.cookies["everloop_session"]
    durable.client.cookies.clear()
    durable.client.cookies.set("everloop_session", change(cookie))
    assert durable.client.get("/").status_code == 401
    durable.client.cookies.set("everloop_session", cookie)
    durable.client.cookies.clear()
    durable.client.cookies.set("everloop_session", cookie)
    assert durable.client.get("/").status_code == 200


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", ""])
def test_signing_in_leads_nowhere_else(to: str, durable: Any) -> None:
    assert sign_in(durable, ANN, to=to).headers["location"] == "/"
    assert sign_in(durable, ANN, to="/runs/r1").headers["location"] == "/runs/r1"


def test_a_form_of_another_session_or_site_does_nothing(durable: Any) -> None:
    run_id = durable.waiting()
    sign_in(durable, ANN)
    good = gate_form(durable, run_id)
    path = f"/runs/{run_id}/gates/release"
    for form, headers in (
        ({**good, "form_token": "0" * 64}, {}),
        ({name: value for name, value in good.items() if name != "form_token"}, {}),
        (good, {"sec-fetch-site": "cross-site"}),
        (good, {"sec-fetch-site": "same-site"}),
        ({**good, "decision": "maybe"}, {}),
    ):
        assert durable.client.post(path, data=form, headers=headers).status_code == 403
        assert durable.records(run_id, "decided") == []
        assert durable.audited()[-1]["event"] == "unauthenticated"
    assert durable.client.post(path, data=good).status_code == 303
    assert len(durable.records(run_id, "decided")) == 1


def test_a_button_pressed_twice_decides_once(durable: Any) -> None:
    run_id = durable.waiting()
    sign_in(durable, ANN)
    form = gate_form(durable, run_id)
    answers = [durable.client.post(f"/runs/{run_id}/gates/release", data=form).status_code for _ in range(2)]
    assert answers == [303, 303]
    other = {**form, "decision": "reject"}
    assert durable.client.post(f"/runs/{run_id}/gates/release", data=other).status_code == 409
    assert [each["approved"] for each in durable.records(run_id, "decided")] == [True]


def test_a_decision_is_about_what_was_seen(durable: Any) -> None:
    run_id = durable.waiting()
    sign_in(durable, ANN)
    form = gate_form(durable, run_id, digest="e" * 64)
    assert durable.client.post(f"/runs/{run_id}/gates/release", data=form).status_code == 409
    assert durable.records(run_id, "decided") == []


def test_four_eyes_hold_on_the_page(open_durable: Any) -> None:
    durable = open_durable(protected=True)
    run_id = durable.waiting(OLGA)
    sign_in(durable, OLGA)
    assert "needs a second person" in durable.client.get(f"/runs/{run_id}").text
    answer = durable.client.post(f"/runs/{run_id}/gates/release", data=gate_form(durable, run_id))
    assert answer.status_code == 403
    assert durable.records(run_id, "decided") == []
    assert (durable.audited()[-1]["principal"], durable.audited()[-1]["decision"]) == (OLGA, "deny")
    sign_in(durable, ANN)
    path = f"/runs/{run_id}/gates/release"
    assert durable.client.post(path, data=gate_form(durable, run_id)).status_code == 303


def test_a_viewer_looks_and_changes_nothing(durable: Any) -> None:
    run_id = durable.waiting()
    sign_in(durable, VIC)
    assert run_id in durable.client.get("/").text
    for action in ("gates/release", "cancel", "resume"):
        answer = durable.client.post(f"/runs/{run_id}/{action}", data=gate_form(durable, run_id))
        assert answer.status_code == 403
        assert "Not done" in answer.text
    assert durable.loop.engine.view(run_id).status == "parked"


def test_the_part_that_changes_is_sent_only_when_it_has(durable: Any) -> None:
    durable.start()
    sign_in(durable, VIC)
    first = durable.client.get("/", headers={"x-fragment": "1"})
    assert "<html" not in first.text
    again = {"x-fragment": "1", "if-none-match": first.headers["etag"]}
    assert durable.client.get("/", headers=again).status_code == 304
    durable.walk(durable.loop.engine.list()[0].run_id, "scrape")
    assert durable.client.get("/", headers=again).status_code == 200


def test_nothing_from_elsewhere_and_nothing_inline(durable: Any) -> None:
    durable.waiting()
    sign_in(durable, ANN)
    for path in ("/", f"/runs/{durable.loop.engine.list()[0].run_id}"):
        answer = durable.client.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert not re.search(r"https?://|<style|style=|onclick|<script>", answer.text)
    for name in ("everloop.css", "live.js", "mark.svg"):
        asset = durable.client.get(f"/page/{name}")
        assert asset.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", asset.text)
    assert durable.client.get("/page/..%2froutes.py").status_code == 404


def test_a_link_from_a_mail_is_looked_at_again_from_here(durable: Any) -> None:
    answer = durable.client.get("/approvals/abc", headers={"sec-fetch-site": "cross-site"})
    assert 'content="0;url=/approvals/abc?here=1"' in answer.text
    again = durable.client.get("/approvals/abc?here=1", headers={"sec-fetch-site": "cross-site"})
    assert "http-equiv" not in again.text


def test_a_browser_is_led_from_the_api_to_the_page(durable: Any) -> None:
    answer = durable.client.get("/v1/approvals/abc", headers={"accept": "text/html,*/*"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/approvals/abc")
    assert durable.client.get("/v1/approvals/abc").status_code == 401
