"""Signs and verifies webhooks as Standard Webhooks 1.0 says (https://www.standardwebhooks.com).

Signed is `id.timestamp.body` with HMAC-SHA256. Headers: `webhook-id`, `webhook-timestamp` (Unix seconds),
`webhook-signature`: one or more `v1,<base64>`, separated by spaces. Whatever is wrong with a delivery is one typed
refusal, to be answered with 401: the reference implementation lets some malformed inputs out as other errors, and takes
a replay.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from workflows.access.errors import WebhookRefused

TOLERANCE_S = 300.0
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix, not a secret

_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,256}\Z")
_TIMESTAMP = re.compile(r"[0-9]{1,15}\Z")
# A sender that rotates sends two or three; an attacker who sends thousands makes us compute nothing more, only compare.
_MAX_SIGNATURES = 16


class SeenIds(Protocol):
    """Remembers the ids of deliveries, for at least twice the tolerance."""

    def add(self, delivery_id: str, expires_at: float) -> bool:
        """Remembers an id, atomically. Returns False if it was known already."""


@dataclass(frozen=True, slots=True, repr=False)
class WebhookSecret:
    """A shared secret. Its value appears in no representation."""

    value: bytes

    @classmethod
    def parse(cls, text: str) -> WebhookSecret:
        """Reads `whsec_<base64>` or `<base64>`.

        Raises:
            ValueError: Not base64, or not 24 to 64 bytes. The message does not hold the secret.
        """
        try:
            value = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("a webhook secret is base64, with or without `whsec_` in front") from None
        if not MIN_SECRET_BYTES <= len(value) <= MAX_SECRET_BYTES:
            raise ValueError(
                f"a webhook secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, this one has {len(value)}"
            )
        return cls(value)

    def __repr__(self) -> str:
        return f"WebhookSecret({len(self.value)} bytes)"


def sign_webhook(secret: WebhookSecret, delivery_id: str, body: bytes, *, now: float | None = None) -> dict[str, str]:
    """The headers of a delivery. A repeated delivery keeps its id and gets a fresh timestamp.

    Raises:
        ValueError: An id that could not be verified.
    """
    if not _ID.match(delivery_id):
        raise ValueError(f"delivery id {delivery_id!r}: letters, digits and _.:- only, 1 to 256 of them")
    timestamp = str(int(time.time() if now is None else now))
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(_mac(secret, delivery_id, timestamp, body)).decode(),
    }


class WebhookVerifier:
    """Verifies deliveries of one sender.

    Args:
        secrets: The current secret first; during a rotation the old one too. Drop the old one to end the rotation.
        seen: Remembers ids, so that a replay within the tolerance is refused.
        clock: Unix seconds.
    """

    def __init__(
        self, secrets: Sequence[WebhookSecret], seen: SeenIds, *, clock: Callable[[], float] = time.time
    ) -> None:
        if not secrets:
            raise ValueError("a webhook verifier needs a secret")
        self._secrets = tuple(secrets)
        self._seen = seen
        self._clock = clock

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Returns the id of a delivery that is genuine, fresh and no replay. `body` are the bytes as received. One that
        its sender repeats keeps its id: the work must be done once an id.

        Raises:
            WebhookRefused: It is not. Nothing else is raised, whatever the headers and the body hold.
        """
        by_name = {name.lower(): value for name, value in headers.items()}
        delivery_id = by_name.get("webhook-id", "")
        timestamp = by_name.get("webhook-timestamp", "")
        if not _ID.match(delivery_id):
            raise WebhookRefused("webhook-id is missing or malformed")
        if not _TIMESTAMP.match(timestamp):
            raise WebhookRefused("webhook-timestamp is missing or not in Unix seconds")
        sent_at = int(timestamp)
        if abs(self._clock() - sent_at) > TOLERANCE_S:
            raise WebhookRefused(f"webhook-timestamp is more than {TOLERANCE_S:.0f} s away")
        if not self._is_signed(by_name.get("webhook-signature", ""), delivery_id, timestamp, body):
            raise WebhookRefused("no signature matches")
        # Only a genuine delivery may use up an id; the same id is stale by its timestamp once it is forgotten. A sender
        # that got no answer, or a 503, sends the same id again under a fresh timestamp: that is no replay, and the id
        # tells the receiver whether it has done the work already.
        if not self._seen.add(f"{delivery_id}@{timestamp}", sent_at + 2 * TOLERANCE_S):
            raise WebhookRefused("this delivery was received before")
        return delivery_id

    def _is_signed(self, header: str, delivery_id: str, timestamp: str, body: bytes) -> bool:
        expected = [_mac(secret, delivery_id, timestamp, body) for secret in self._secrets]
        matches = False
        for entry in header.split(" ", _MAX_SIGNATURES)[:_MAX_SIGNATURES]:
            version, _, encoded = entry.partition(",")
            if version != "v1":
                continue
            try:
                given = base64.b64decode(encoded, validate=True)
            except (binascii.Error, ValueError):
                continue
            for mac in expected:
                matches |= hmac.compare_digest(mac, given)
        return matches


def _mac(secret: WebhookSecret, delivery_id: str, timestamp: str, body: bytes) -> bytes:
    return hmac.digest(secret.value, f"{delivery_id}.{timestamp}.".encode() + body, hashlib.sha256)
