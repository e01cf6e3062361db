"""Asks an S3 server for temporary credentials: AssumeRole of the Security Token Service, signed with Signature Version
4.

MinIO serves it at its own address (https://min.io/docs/minio/linux/developers/security-token-service/AssumeRole.html).
Plain HTTP, so that the broker needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

from workflows.access.errors import CredentialError

_log = logging.getLogger(__name__)

MAX_POLICY_CHARS = 2048
MIN_DURATION_S = 900
_TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 2**16


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """Long-lived credentials of the broker. The secret appears in no representation."""

    access_key: str
    secret_key: str
    session_token: str = ""

    def __repr__(self) -> str:
        return f"KeyPair({self.access_key!r})"


@dataclass(frozen=True, slots=True, repr=False)
class TemporaryCredentials:
    """What the service gave.

    Attributes:
        access_key: Public part.
        secret_key: Secret.
        session_token: Secret; holds the session policy, signed by the server.
        expires_at: Unix seconds.
    """

    access_key: str
    secret_key: str
    session_token: str
    expires_at: float

    def __repr__(self) -> str:
        return f"TemporaryCredentials({self.access_key!r}, expires_at={self.expires_at:.0f})"


def assume_role(
    endpoint: str,
    keys: KeyPair,
    policy: str,
    *,
    duration_s: int,
    region: str = "us-east-1",
    pauses_s: Sequence[float] = (0.2, 0.5, 1.0, 2.0),
) -> TemporaryCredentials:
    """Temporary credentials that may do what both the keys and the policy allow.

    Args:
        endpoint: `http(s)://host:port` of the server.
        keys: Whose rights are passed on, cut down by the policy.
        policy: Session policy, JSON of at most 2048 characters.
        duration_s: 900 or more.
        region: As configured at the server.
        pauses_s: Pauses before it asks again a server that is away, busy or still starting.

    Raises:
        CredentialError: The server refused or did not answer.
        ValueError: A policy or a duration out of bounds.
    """
    if len(policy) > MAX_POLICY_CHARS:
        raise ValueError(f"a session policy has at most {MAX_POLICY_CHARS} characters, this one has {len(policy)}")
    if duration_s < MIN_DURATION_S:
        raise ValueError(f"duration_s = {duration_s} is under {MIN_DURATION_S}, the least that the service grants")
    if urlsplit(endpoint).scheme not in ("http", "https"):
        raise ValueError(f"endpoint {endpoint!r} is no http or https address")
    parameters = {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "DurationSeconds": str(duration_s),
        "Policy": policy,
    }
    body = urlencode(parameters).encode()
    for pause_s in pauses_s:
        try:
            return _parse(endpoint, _post(endpoint, body, keys, region))
        except _NoClearAnswer as trouble:
            _log.info("%s; asked again in %.1f s", trouble, pause_s)
            time.sleep(pause_s)
    return _parse(endpoint, _post(endpoint, body, keys, region))


class _NoClearAnswer(CredentialError):
    """Asking again may help."""


def _post(endpoint: str, body: bytes, keys: KeyPair, region: str) -> str:
    url = endpoint.rstrip("/") + "/"
    headers = _signed_headers(url, body, keys, region, datetime.now(UTC))
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - scheme checked above
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return str(answer.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace")
        reason = f"HTTP {error.code} {_field(text, 'Code') or error.reason}: {_field(text, 'Message')}"
        # MinIO answers 400 while it reads its users, right after it says that it is live.
        unclear = error.code >= 500 or "not initialized" in reason
        raise (_NoClearAnswer if unclear else CredentialError)(endpoint, reason) from None
    except (OSError, ValueError) as error:
        raise _NoClearAnswer(endpoint, str(getattr(error, "reason", error))) from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A signed request goes where it was signed for, and nowhere else."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def _parse(endpoint: str, text: str) -> TemporaryCredentials:
    access_key, secret_key, token, expiration = (
        _field(text, name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
    )
    try:
        expires_at = datetime.fromisoformat(expiration).timestamp()
    except ValueError:
        expires_at = 0.0
    if not (access_key and secret_key and token and expires_at):
        raise CredentialError(endpoint, "the answer holds no credentials")
    return TemporaryCredentials(access_key, secret_key, token, expires_at)


def _field(text: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1] if found else ""


def _signed_headers(url: str, body: bytes, keys: KeyPair, region: str, now: datetime) -> dict[str, str]:
    """Signature Version 4 of a POST (https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html)."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/sts/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    signed = {
        "content-type": "application/x-www-form-urlencoded",
        "host": urlsplit(url).netloc,
        "x-amz-content-sha256": digest,
        "x-amz-date": stamp,
    }
    if keys.session_token:
        signed["x-amz-security-token"] = keys.session_token
    names = ";".join(signed)
    canonical = "\n".join(["POST", "/", "", *(f"{name}:{value}" for name, value in signed.items()), "", names, digest])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{keys.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{keys.access_key}/{scope}"
    return signed | {
        "authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    }
