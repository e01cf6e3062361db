"""Remembers the ids of deliveries in the storage: a replay is refused after a restart too, and by every replica."""

from __future__ import annotations

import hashlib
import json
import math
import secrets

from workflows.log import AlreadyExists, NotFound, Store

SEEN_PREFIX = "seen-deliveries"


class StoredSeenIds:
    """Ids as objects that are created only if they are absent."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, delivery_id: str, expires_at: float) -> bool:
        """Remembers an id, atomically. Returns False if it was known already."""
        key = f"{SEEN_PREFIX}/{hashlib.sha256(delivery_id.encode()).hexdigest()}.json"
        data = json.dumps({"expires_at": expires_at, "nonce": secrets.token_hex(16)}).encode()
        try:
            self._store.create(key, data)
        except AlreadyExists:
            # Perhaps this very call, whose first answer was lost.
            return self._store.get(key) == data
        return True

    def prune(self) -> int:
        """Forgets what has expired; call it now and then. Returns how many those were."""
        now = self._store.now()
        expired = [info.key for info in self._store.list(SEEN_PREFIX) if self._expires_at(info.key) < now]
        for key in expired:
            self._store.delete(key)
        return len(expired)

    def _expires_at(self, key: str) -> float:
        try:
            return float(json.loads(self._store.get(key))["expires_at"])
        except NotFound:
            return math.inf  # Somebody else has forgotten it.
