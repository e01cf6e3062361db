from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.access import WebhookRefused, WebhookSecret, WebhookVerifier, sign_webhook

NOW = 1_700_000_000.0
NEW = WebhookSecret(b"n" * 32)
OLD = WebhookSecret(b"o" * 24)
BODY = b'{"a": 1}'


class Seen:
    def __init__(self) -> None:
        self.ids: dict[str, float] = {}

    def add(self, delivery_id: str, expires_at: float) -> bool:
        if delivery_id in self.ids:
            return False
        self.ids[delivery_id] = expires_at
        return True


def verifier(*secrets: WebhookSecret, now: float = NOW, seen: Seen | None = None) -> WebhookVerifier:
    return WebhookVerifier(secrets or (NEW,), seen or Seen(), clock=lambda: now)


def signed(secret: WebhookSecret = NEW, body: bytes = BODY, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**sign_webhook(secret, "msg_1", body, now=NOW), **(changes or {})}


def test_a_genuine_delivery_is_taken_whatever_the_case_of_its_headers() -> None:
    headers = {name.title(): value for name, value in signed().items()}
    assert verifier().verify(headers, BODY) == "msg_1"


def test_the_signature_is_the_one_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks (spec, "Signature scheme")."""
    secret = WebhookSecret.parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = sign_webhook(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", body, now=1614265330)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,not base64!"},
        {"webhook-signature": "v1,\u00e9"},
        {"webhook-signature": "v2," + base64.b64encode(b"x" * 32).decode()},
        {"webhook-signature": "v1," + base64.b64encode(b"x" * 32).decode()},
        {"webhook-signature": "v1a," + "A" * 43 + "="},
        {"webhook-id": ""},
        {"webhook-id": "msg_2"},
        {"webhook-id": "msg_1\n"},
        {"webhook-id": "m" * 257},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": "9.0"},
        {"webhook-timestamp": "-1700000000"},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": "\u0661\u0662"},
        {"webhook-timestamp": "2023-11-14T22:13:20"},
        {"webhook-timestamp": "9" * 400},
        {"webhook-timestamp": "1700000001"},
    ],
)
def test_a_changed_header_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(WebhookRefused):
        verifier().verify(signed(changes=changes), BODY)
    assert verifier().verify(signed(), BODY)


@pytest.mark.parametrize("body", [b"", BODY + b" ", b"\xff\xfe", BODY[:-1]])
def test_a_changed_body_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRefused, match="no signature matches"):
        verifier().verify(signed(), body)


def test_a_body_that_is_no_text_can_be_signed() -> None:
    assert verifier().verify(signed(body=b"\xff\x00"), b"\xff\x00") == "msg_1"


def test_the_dot_between_the_signed_parts_cannot_be_moved() -> None:
    """`a.1` with body `x` and `a` with body... the id may hold dots, the timestamp may not: the parts stay apart."""
    mac = base64.b64encode(hmac.digest(NEW.value, b"msg_1.1700000000.9.body", hashlib.sha256)).decode()
    headers = {"webhook-id": "msg_1", "webhook-timestamp": "1700000000.9", "webhook-signature": f"v1,{mac}"}
    with pytest.raises(WebhookRefused, match="Unix seconds"):
        verifier().verify(headers, b"body")


@pytest.mark.parametrize(("age_s", "taken"), [(-301, False), (-299, True), (0, True), (299, True), (301, False)])
def test_a_delivery_is_fresh_for_five_minutes_either_way(age_s: int, taken: bool) -> None:
    late = verifier(now=NOW + age_s)
    if taken:
        assert late.verify(signed(), BODY)
    else:
        with pytest.raises(WebhookRefused, match="300 s away"):
            late.verify(signed(), BODY)


def test_a_replay_is_refused_and_a_forgery_uses_up_no_id() -> None:
    seen = Seen()
    once = verifier(seen=seen)
    with pytest.raises(WebhookRefused, match="no signature"):
        once.verify(signed(OLD), BODY)
    assert seen.ids == {}
    assert once.verify(signed(), BODY)
    with pytest.raises(WebhookRefused, match="received before"):
        once.verify(signed(), BODY)
    assert [expires_at > NOW + 300 for expires_at in seen.ids.values()] == [True]


def test_a_delivery_that_is_sent_again_under_a_fresh_timestamp_is_no_replay() -> None:
    seen = Seen()
    assert verifier(seen=seen).verify(signed(), BODY) == "msg_1"
    again = sign_webhook(NEW, "msg_1", BODY, now=NOW + 5)
    assert verifier(seen=seen, now=NOW + 5).verify(again, BODY) == "msg_1"
    with pytest.raises(WebhookRefused, match="received before"):
        verifier(seen=seen, now=NOW + 6).verify(again, BODY)


def test_both_secrets_hold_during_a_rotation_and_the_old_one_ends_with_it() -> None:
    assert verifier(NEW, OLD).verify(signed(OLD), BODY)
    assert verifier(NEW, OLD).verify(signed(NEW), BODY)
    with pytest.raises(WebhookRefused):
        verifier(NEW).verify(signed(OLD), BODY)


def test_one_of_several_signatures_is_enough_and_hundreds_are_not_read() -> None:
    right = signed()["webhook-signature"]
    wrong = "v1," + base64.b64encode(b"x" * 32).decode()
    assert verifier().verify(signed(changes={"webhook-signature": f"{wrong} v1a,zz {right}"}), BODY)
    with pytest.raises(WebhookRefused):
        verifier().verify(signed(changes={"webhook-signature": " ".join([wrong] * 500 + [right])}), BODY)


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_AA==", base64.b64encode(b"x" * 23).decode(), "whsec_!!", "\u00e9" * 40]
)
def test_a_weak_or_malformed_secret_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match="webhook secret") as caught:
        WebhookSecret.parse(text)
    assert not text or text not in str(caught.value)


def test_a_secret_of_24_to_64_bytes_is_taken() -> None:
    for size in (24, 64):
        assert WebhookSecret.parse(base64.b64encode(b"x" * size).decode()).value == b"x" * size
    with pytest.raises(ValueError, match="24 to 64"):
        WebhookSecret.parse(base64.b64encode(b"x" * 65).decode())
    assert "nnnn" not in repr(NEW)


@pytest.mark.parametrize("delivery_id", ["", "a b", "a\n", "\u00e9", "x" * 257])
def test_an_id_that_could_not_be_verified_is_not_signed(delivery_id: str) -> None:
    with pytest.raises(ValueError, match="delivery id"):
        sign_webhook(NEW, delivery_id, BODY)


header_values = st.one_of(st.text(max_size=80), st.sampled_from(["v1,", "v1,AAAA", str(int(NOW)), "msg_1", "v1,\x00"]))


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(["webhook-id", "Webhook-Timestamp", "webhook-signature"]), st.text(max_size=20)),
        header_values,
    ),
    st.binary(max_size=200),
)
@settings(max_examples=400, deadline=None)
def test_nothing_but_the_refusal_ever_comes_out(headers: dict[str, Any], body: bytes) -> None:
    with pytest.raises(WebhookRefused):
        verifier(NEW, OLD).verify(headers, body)


@given(st.binary(max_size=200), st.integers(0, 10_000))
@settings(max_examples=100, deadline=None)
def test_what_was_signed_is_taken_and_any_other_body_is_not(body: bytes, flip: int) -> None:
    assert verifier().verify(signed(body=body), body)
    changed = bytearray(body or b"\0")
    changed[flip % len(changed)] ^= 1 + flip % 255
    with pytest.raises(WebhookRefused):
        verifier().verify(signed(body=body), bytes(changed))
