"""Storage credentials that somebody else holds and renews: fetched over HTTP, as AWS clients do in a container.

`AWS_CONTAINER_CREDENTIALS_FULL_URI` says where, `AWS_CONTAINER_AUTHORIZATION_TOKEN` who asks
(https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html). Every AWS client in a process with
these two variables, boto3 and pyarrow among them, finds the same credentials.

Ray writes the variables that are given to a task into its logs. So on a Ray that asks for a token they hold a ticket in
place of the token that opens the desk: who is inside, and so has Ray's token, makes the one from the other; who only
reads the logs cannot.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import urllib.error
import urllib.request
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from workflows.log.errors import StoreDenied, StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import S3Credential  # Not there at run time.

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"  # noqa: S105 - the name of a variable
TICKET = "EVERLOOP_CREDENTIALS_TICKET"
ACCESS_KEY = "AWS_ACCESS_KEY_ID"
TIMEOUT_S = 10.0
_MAX_ANSWER_BYTES = 2**16


def ray_secret(environment: Mapping[str, str]) -> bytes:
    """The token of a Ray that asks for one, from where Ray takes it; empty if it asks for none
    (https://docs.ray.io/en/latest/ray-security/token-auth.html).
    """
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        return b""
    if environment.get("RAY_AUTH_TOKEN"):
        return environment["RAY_AUTH_TOKEN"].strip().encode()
    path = environment.get("RAY_AUTH_TOKEN_PATH") or str(Path("~/.ray/auth_token").expanduser())
    try:
        return Path(path).read_bytes().strip()
    except OSError:
        return b""


def token_of(ticket: str, secret: bytes) -> str:
    """The token that a ticket stands for, for who has the secret; empty without one."""
    if not ticket or not secret:
        return ""
    mac = hmac.digest(secret, b"everloop credentials\n" + ticket.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def cash_ticket(environment: MutableMapping[str, str]) -> None:
    """Puts the token in the place of the ticket, for other AWS clients in this process."""
    if environment.get(TICKET) and not environment.get(TOKEN):
        environment[TOKEN] = token_of(environment[TICKET], ray_secret(environment))


@dataclass(frozen=True, slots=True)
class ServedCredentials:
    """A credential provider of obstore, which calls it again before what it gave ends.

    Attributes:
        url: Where to ask.
        token: Says who asks; in no representation.
    """

    url: str
    token: str = field(repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """What the variables name; None if they are not set, or if there are keys, which go first everywhere."""
        if environment.get(ACCESS_KEY) or not environment.get(FULL_URI):
            return None
        token = environment.get(TOKEN) or token_of(environment.get(TICKET, ""), ray_secret(environment))
        return cls(environment[FULL_URI], token)

    def __call__(self) -> S3Credential:
        """Credentials that hold for a while.

        Raises:
            StoreDenied: Whoever holds them gives none to this token.
            StoreUnavailable: Nobody answers there.
        """
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise StoreDenied(self.url, "credentials", f"{FULL_URI} is no http address")
        request = urllib.request.Request(self.url, headers={"Authorization": self.token})  # noqa: S310 - checked above
        try:
            # No proxy: credentials come from beside us.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                found = json.loads(answer.read(_MAX_ANSWER_BYTES))
            return {
                "access_key_id": str(found["AccessKeyId"]),
                "secret_access_key": str(found["SecretAccessKey"]),
                "token": str(found["Token"]),
                "expires_at": datetime.fromisoformat(str(found["Expiration"])),
            }
        except urllib.error.HTTPError as error:
            with error:
                refused = StoreDenied if error.code in (401, 403, 404) else StoreUnavailable
                raise refused(self.url, "credentials", f"HTTP {error.code}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(self.url, "credentials", f"{type(error).__name__}: {error}") from error
