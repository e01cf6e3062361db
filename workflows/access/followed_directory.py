"""A directory of principals that is read again when its file changes: a key that is taken out opens nothing any more.

A new file that is wrong changes nothing. The principals before it stay, because a slip of the pen must not lock
everybody out; `reload_error` says so, the log too, and the door is not ready until the file is right.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflows.access.errors import PrincipalError
from workflows.access.principals import AliasRule, Directory, Principal, load_directory

_log = logging.getLogger(__name__)


class FollowedDirectory:
    """The principals in a file, as it is now. Safe to use from threads; each question costs a look at the file's
    status.

    Args:
        path: Of the file.
        note: Writes an event into the audit log: that other principals are in force, or were refused. If it raises,
            nothing has changed, whoever asked is not answered, and the next question tries again.

    Raises:
        PrincipalError: The file is wrong; there is no directory then.
    """

    def __init__(self, path: Path, note: Callable[..., Any] | None = None) -> None:
        self._path = path
        self._note = note or (lambda *_, **__: None)
        self._lock = threading.Lock()
        self._error: PrincipalError | None = None
        self._seen = self._fingerprint()
        self._in_force = load_directory(path)

    @property
    def reload_error(self) -> PrincipalError | None:
        """Why the file as it is now is not in force."""
        self.current()
        return self._error

    def current(self) -> Directory:
        """What is in force now."""
        with self._lock:
            found = self._fingerprint()
            if found != self._seen:
                self._reload()
                self._seen = found
            return self._in_force

    def alias(self, name: str) -> AliasRule:
        """As `Directory.alias`."""
        return self.current().alias(name)

    def by_subject(self, subject: str) -> Principal | None:
        """As `Directory.by_subject`."""
        return self.current().by_subject(subject)

    def by_api_key(self, key: str) -> Principal | None:
        """As `Directory.by_api_key`."""
        return self.current().by_api_key(key)

    def by_key_digest(self, digest: str) -> Principal | None:
        """As `Directory.by_key_digest`."""
        return self.current().by_key_digest(digest)

    def _reload(self) -> None:
        try:
            new = load_directory(self._path)
        except PrincipalError as error:
            self._note("principals_refused", error=str(error))
            _log.error("principals not loaded, those before stay in force: %s", error)
            self._error = error
            return
        if new != self._in_force:
            gone = sorted(set(self._in_force.api_keys.items()) - set(new.api_keys.items()))
            self._note("principals_loaded", principals=len(new.principals), keys_gone=sorted({who for _, who in gone}))
            _log.info("%d principals are in force", len(new.principals))
        self._in_force, self._error = new, None

    def _fingerprint(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
