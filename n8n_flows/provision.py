"""Gives n8n its credentials and flows, publishes them, and looks whether it has them.

n8n's commands exit with 0 although nothing was done (a file that is skipped, an unknown id), so each result is looked
at. They do not reach a running server: it is stopped first if anything changed, and nothing is done if nothing did.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from n8n_flows.errors import ProvisionFailed
from n8n_flows.server import N8n, write_private
from n8n_flows.settings import Mail, Settings, Slack

FLOWS = ("report_error", "notify_people", "request_approval", "start_run")
"""In the order in which they are published: a flow whose error flow is not published fails unseen."""
SIGNED_PATHS = ("everloop-notify", "everloop-approve", "everloop-run")
FORM_PATH = "everloop-start"
_HERE = Path(__file__).resolve().parent
# Where mail is off: n8n starts no flow in which a required field is empty, though the node is never reached.
_NOBODY = "nobody@mail.invalid"


def load_flow(name: str) -> dict[str, Any]:
    """A flow as it stands in this folder."""
    flow: dict[str, Any] = json.loads((_HERE / f"{name}.json").read_text())
    return flow


def render_flow(name: str, settings: Settings) -> dict[str, Any]:
    """A flow with the settings in place of its `__NAMES__`. Secrets are not among them: they are credentials.

    Raises:
        ProvisionFailed: A name is left over.
    """
    values: dict[str, str | int] = {
        "__DOOR_URL__": settings.door.url.rstrip("/"),
        "__TIMEZONE__": settings.server.timezone,
        "__SLACK_ON__": json.dumps(settings.slack is not None),
        "__MAIL_ON__": json.dumps(settings.mail is not None),
        "__MAIL_FROM__": settings.mail.sender if settings.mail else _NOBODY,
        "__MAIL_TO__": settings.mail.to if settings.mail else _NOBODY,
        "__REMIND_AFTER_S__": settings.approval.remind_after_s,
    }

    def rendered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rendered(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rendered(item) for item in value]
        if not isinstance(value, str):
            return value
        if value in values:
            return values[value]
        for mark, text in values.items():
            value = value.replace(mark, str(text))
        return value

    flow: dict[str, Any] = rendered(load_flow(name))
    if left := re.search("__[A-Z_]+__", json.dumps(flow)):
        raise ProvisionFailed(f"{name}.json: nothing fills {left[0]}")
    return flow


def credentials(n8n: N8n) -> list[dict[str, Any]]:
    """The credentials, by the ids that the flows name. A sink that is not configured gets one that leads nowhere."""
    settings = n8n.settings
    slack = settings.slack or Slack(url="https://slack.invalid/")
    mail = settings.mail or Mail(host="mail.invalid", sender="", to="")
    people = settings.people

    def one(id_: str, name: str, kind: str, /, **data: Any) -> dict[str, Any]:
        return {"id": id_, "name": name, "type": kind, "data": data}

    return [
        one(
            "everloopSecret01",
            "Everloop webhook secret",
            "signedWebhookSecret",
            secret=settings.webhook.secret,
            oldSecret=settings.webhook.old_secret,
            token=settings.webhook.token,
        ),
        one(
            "everloopDoor0001",
            "Everloop door",
            "httpHeaderAuth",
            name="authorization",
            value=f"Bearer {settings.door.api_key}",
        ),
        one("everloopSlack001", "Everloop Slack", "slackUrl", url=slack.url),
        one(
            "everloopMail0001",
            "Everloop mail",
            "smtp",
            host=mail.host,
            port=mail.port,
            user=mail.user,
            password=mail.password,
            secure=mail.tls,
            disableStartTls=not mail.starttls,
        ),
        one(
            "everloopForm0001",
            "Everloop form",
            "httpBasicAuth",
            user=people.form_user,
            password=n8n.secret("form_password", people.form_password),
        ),
    ]


def provision(n8n: N8n) -> bool:
    """Imports and publishes what changed since the last time; stops the server for it. Returns whether anything had.

    Raises:
        ProvisionFailed: n8n does not hold what it was given.
    """
    flows = [render_flow(name, n8n.settings) for name in FLOWS]
    secret = credentials(n8n)
    # Keyed, so that the mark tells nothing about the secrets.
    key = n8n.secret("mark_key").encode()
    mark = hmac.digest(key, json.dumps([flows, secret, str(n8n.settings.postgres)]).encode(), hashlib.sha256).hex()
    done = n8n.state / "provisioned"
    if done.exists() and done.read_text() == mark:
        return False
    n8n.stop()
    done.unlink(missing_ok=True)
    _import(n8n, flows, secret)
    for flow in flows:
        n8n.command("publish:workflow", f"--id={flow['id']}")
    said = n8n.command("list:workflow", "--active=true", "--onlyId")
    if missing := {flow["id"] for flow in flows} - set(said.split()):
        raise ProvisionFailed(f"n8n did not publish {', '.join(sorted(missing))}", said)
    write_private(done, mark)
    return True


def _import(n8n: N8n, flows: list[dict[str, Any]], secret: list[dict[str, Any]]) -> None:
    folder = n8n.state / "import"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        write_private(folder / "credentials.json", json.dumps(secret))
        said = n8n.command("import:credentials", f"--input={folder / 'credentials.json'}")
        if f"imported {len(secret)} credentials" not in said:
            raise ProvisionFailed("n8n did not take the credentials", said)
        (folder / "flows").mkdir()
        for flow in flows:
            write_private(folder / "flows" / f"{flow['id']}.json", json.dumps(flow))
        said = n8n.command("import:workflow", "--separate", f"--input={folder / 'flows'}")
        if f"imported {len(flows)} workflow" not in said:
            raise ProvisionFailed("n8n did not take the flows", said)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check(n8n: N8n, timeout_s: float = 60.0) -> Mapping[str, str]:
    """Calls each webhook with and without authentication; no flow starts by it. Returns what was seen, by path.

    n8n says that it is ready up to two seconds before its webhooks answer, so an unknown path is asked again.

    Raises:
        ProvisionFailed: An answer is not what it must be.
    """
    seen: dict[str, str] = {}
    deadline = time.monotonic() + timeout_s
    for what, request, expected in _probes(n8n):
        while (status := _status(request)) in (0, 404) and expected != status and time.monotonic() < deadline:
            time.sleep(0.1)
        if status != expected:
            raise ProvisionFailed(f"{what}: answered {status}, must answer {expected}")
        seen[what] = str(status)
    return seen


def _probes(n8n: N8n) -> Iterator[tuple[str, urllib.request.Request, int]]:
    url, webhook = n8n.settings.server.url, n8n.settings.webhook
    for path in SIGNED_PATHS:
        to = f"{url}/webhook/{path}"
        # Genuine, but no JSON object: it is refused after the signature was found right, and before a flow starts.
        body = b"[]"
        wrong = "whsec_" + base64.b64encode(bytes(32)).decode()
        yield f"{path} with a signature", _post(to, body, signature(webhook.secret, body) | _token(webhook.token)), 400
        yield f"{path} with a wrong one", _post(to, body, signature(wrong, body) | _token(webhook.token)), 401
        yield f"{path} with none", _post(to, body, {}), 401
    form = f"{url}/form/{FORM_PATH}"
    pair = f"{n8n.settings.people.form_user}:{n8n.secret('form_password', n8n.settings.people.form_password)}"
    basic = {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    yield f"{FORM_PATH} with a password", urllib.request.Request(form, headers=basic), 200  # noqa: S310
    yield f"{FORM_PATH} with none", urllib.request.Request(form), 401  # noqa: S310
    yield "an unknown path", _post(f"{url}/webhook/everloop-unknown", b"{}", {}), 404


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> urllib.request.Request:
    return urllib.request.Request(url, data=body, headers={"content-type": "application/json", **headers})  # noqa: S310


def _token(token: str) -> dict[str, str]:
    return {"x-everloop-token": token} if token else {}


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def signature(secret: str, body: bytes, *, delivery_id: str = "", now_s: float | None = None) -> dict[str, str]:
    """The headers of a delivery, as Standard Webhooks 1.0 says."""
    id_ = delivery_id or "probe-" + os.urandom(8).hex()
    timestamp = str(int(time.time() if now_s is None else now_s))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": id_,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }
