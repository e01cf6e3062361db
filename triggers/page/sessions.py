"""Sign-in with an API key, kept as a cookie that says whose key it was and until when, under a MAC.

The cookie is HttpOnly and SameSite=Strict, so neither a script nor another site can use it. It opens the door until it
expires, or until its key is taken out of the directory. Forms carry a token derived from it: a second lock on the same
door, for browsers that know no SameSite.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from workflows.access import Principal, Principals, key_digest

COOKIE = "everloop_session"
LIFETIME_S = 12 * 3600.0


class Sessions:
    """Opens and checks sessions. It keeps none, so a restarted door, or another one with the same key, knows them too.

    Args:
        key: Secret of the MAC, at least 32 bytes.
        directory: Who there is.
    """

    def __init__(self, key: bytes, directory: Principals) -> None:
        if len(key) < 32:
            raise ValueError(f"the session key has {len(key)} bytes, must have at least 32")
        self._key = key
        self._directory = directory

    def open(self, api_key: str) -> str | None:
        """The cookie's value for the person whose key this is; None for an unknown key, or one of a program."""
        person = self._directory.by_api_key(api_key)
        if person is None or person.kind != "Person":
            return None
        facts = f"{key_digest(api_key)}.{int(time.time() + LIFETIME_S)}.{secrets.token_hex(8)}"
        return f"{facts}.{self._mac('session', facts)}"

    def principal(self, cookie: str) -> Principal | None:
        """Who is signed in, or None."""
        facts, _, mac = cookie.rpartition(".")
        if not hmac.compare_digest(mac.encode(), self._mac("session", facts).encode()):
            return None
        digest, expires_at, _ = facts.split(".")
        if time.time() >= int(expires_at):
            return None
        return self._directory.by_key_digest(digest)

    def form_token(self, cookie: str) -> str:
        """What a form of that session must carry."""
        return self._mac("form", cookie)

    def is_form_token(self, cookie: str, token: str) -> bool:
        """Whether a form was made for that session."""
        return hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.form_token(cookie).encode())

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
