"""The trigger of our own, run by Node, against the signatures of the loop."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from n8n_flows import install
from workflows.access import WebhookSecret, sign_webhook

NODES = Path(install.__file__).parent / "nodes"
NOW_S = 1_764_000_000
SECRET = "whsec_" + base64.b64encode(bytes(range(200, 232))).decode()
OLD = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()
BODY = json.dumps({"type": "run.failed", "data": {"title": "é"}}, ensure_ascii=False).encode()
# Calls the trigger as n8n does: the request as it came, the credentials, and what became of it.
CALL = """
const { SignedWebhook } = require(process.argv[1]);
const { Readable } = require('stream');
const LIMIT = 10000;
const cases = JSON.parse(require('fs').readFileSync(0));
(async () => {
  const answers = [];
  for (const { headers, body, credentials, nowS } of cases) {
    Date.now = () => nowS * 1000;
    const answer = {};
    const response = {
      status(code) { answer.status = code; return this; },
      json(value) { answer.body = value; },
    };
    const request = Readable.from([Buffer.from(body, 'base64')]);
    request.readRawBody = async () => {
      const read = Buffer.from(body, 'base64');
      if (read.length > LIMIT) throw Object.assign(new Error(), { type: 'entity.too.large', limit: LIMIT });
      if (headers['content-encoding']) throw new Error('incorrect header check');
      request.rawBody = read;
    };
    const context = {
      getRequestObject: () => request,
      getResponseObject: () => response,
      getHeaderData: () => headers,
      getCredentials: async () => credentials,
      getNodeParameter: () => 'everloop-notify',
      logger: { warn: (text) => { answer.logged = text; } },
    };
    const result = await new SignedWebhook().webhook.call(context);
    const drained = request.readableEnded || undefined;
    answers.push({ ...answer, drained, started: result.workflowData?.[0]?.[0]?.json });
  }
  console.log(JSON.stringify(answers));
})();
"""


@pytest.fixture(scope="module")
def call() -> Callable[..., dict[str, Any]]:
    node = install.installation().node if install.installation().is_complete else shutil.which("node")
    if not node:
        pytest.skip("no Node: `n8n_flows/start install` brings one")

    def run(headers: dict[str, str], body: bytes = BODY, **credentials: str) -> dict[str, Any]:
        case = {
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "credentials": {"secret": SECRET, "oldSecret": "", "token": "", **credentials},
            "nowS": NOW_S,
        }
        done = subprocess.run(
            [str(node), "-e", CALL, str(NODES / "SignedWebhook.node.js")],
            input=json.dumps([case]),
            capture_output=True,
            text=True,
            check=True,
        )
        (answer,) = json.loads(done.stdout)
        return dict(answer)

    return run


def signed(body: bytes = BODY, *, secret: str = SECRET, at_s: float = NOW_S) -> dict[str, str]:
    return sign_webhook(WebhookSecret.parse(secret), "e-1", body, now=at_s)


def test_a_genuine_delivery_starts_the_flow(call: Callable[..., dict[str, Any]]) -> None:
    answer = call(signed())
    assert answer == {"started": {"id": "e-1", "body": json.loads(BODY)}}


def test_the_old_secret_is_taken_while_it_is_replaced(call: Callable[..., dict[str, Any]]) -> None:
    assert call(signed(secret=OLD))["status"] == 401
    assert "started" in call(signed(secret=OLD), oldSecret=OLD)


def test_one_of_several_signatures_is_enough(call: Callable[..., dict[str, Any]]) -> None:
    good, wrong = signed(), signed(secret=OTHER)
    both = {**good, "webhook-signature": f"{wrong['webhook-signature']} v2,x {good['webhook-signature']}"}
    assert "started" in call(both)


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_stale_delivery_is_refused(minutes: int, call: Callable[..., dict[str, Any]]) -> None:
    reason = "webhook-timestamp is more than 300 s away"
    assert call(signed(at_s=NOW_S + 60 * minutes)) == {
        "status": 401,
        "body": {"error": reason},
        "logged": f"Refused a delivery to everloop-notify with 401: {reason}",
    }
    assert "started" in call(signed(at_s=NOW_S + 50 * minutes)), "five minutes are allowed"


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1,%%%%"},
        {"webhook-signature": "v2," + "A" * 43 + "="},
        {"webhook-signature": "v1," + "A" * 43 + "="},
        {"webhook-id": "e-2"},
        {"webhook-id": ""},
        {"webhook-id": "e 1"},
        {"webhook-timestamp": str(NOW_S + 1)},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": "1e9"},
        {"webhook-timestamp": ""},
    ],
)
def test_a_forged_header_is_refused(change: dict[str, str], call: Callable[..., dict[str, Any]]) -> None:
    answer = call({**signed(), **change})
    assert answer["status"] == 401
    assert "started" not in answer


def test_an_altered_body_is_refused(call: Callable[..., dict[str, Any]]) -> None:
    assert call(signed(), BODY + b" ")["status"] == 401
    assert call(signed(), b"\xef\xbb\xbf" + BODY)["status"] == 401


def test_the_token_is_asked_for_beside_the_signature(call: Callable[..., dict[str, Any]]) -> None:
    assert call(signed(), token="t-1")["status"] == 401
    assert call({**signed(), "x-everloop-token": "t-2"}, token="t-1")["status"] == 401
    assert "started" in call({**signed(), "x-everloop-token": "t-1"}, token="t-1")
    assert call({"x-everloop-token": "t-1"}, token="t-1")["status"] == 401, "the token alone opens nothing"


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"null", b"{", b'{"a": "\xff"}'])
def test_a_genuine_body_that_is_no_json_object_is_a_bad_request(
    body: bytes, call: Callable[..., dict[str, Any]]
) -> None:
    answer = call(signed(body), body)
    assert answer["status"] == 400
    assert "started" not in answer


def test_a_body_that_is_too_long_is_refused_unread_and_drained(call: Callable[..., dict[str, Any]]) -> None:
    body = json.dumps({"a": "x" * 10_000}).encode()
    answer = call(signed(body), body)
    assert (answer["status"], answer["drained"]) == (413, True)
    assert answer["body"] == {"error": "the body is longer than 10000 bytes"}
    assert "started" not in answer


def test_a_body_that_cannot_be_read_is_a_bad_request(call: Callable[..., dict[str, Any]]) -> None:
    answer = call({**signed(), "content-encoding": "gzip"})
    assert (answer["status"], answer["drained"]) == (400, True)
    assert "started" not in answer
