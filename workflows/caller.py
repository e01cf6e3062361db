"""Who calls a command, and whether they may: asked before anything is changed, and written to the audit log.

On one machine the caller is the user of the operating system, and owning the storage makes an admin. A team names its
principals in a file (`EVERLOOP_PRINCIPALS`); then the API key in `EVERLOOP_API_KEY` says who calls. Looking at runs
asks nobody: whoever can read the storage can look.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from workflows.command_line import FAILED, POLICIES, PRINCIPALS, WRONG_USE
from workflows.log import Store
from workflows.step_credentials import audit_log

if TYPE_CHECKING:
    from workflows.access import AuditLog, Authorizer, Directory, Principal, Resource

API_KEY = "EVERLOOP_API_KEY"


class NotAllowed(Exception):
    """The command does nothing; the message says who may not do what to what, and why.

    Attributes:
        exit_code: 2 for a "no", 1 if there is no answer.
    """

    def __init__(self, reason: str, exit_code: int = WRONG_USE) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Caller:
    """The principal of a command, and the policies that it is under.

    Args:
        storage: Storage URI, as given.
        store: That storage, opened; the audit log lies there.
        acting_as: Subject from `--as`.

    Raises:
        NotAllowed: The directory or the policies are wrong, or nobody vouches for the caller.
    """

    def __init__(self, storage: str, store: Store, acting_as: str | None) -> None:
        from workflows.access import AccessError, Directory, load_directory

        self._storage, self._store = storage, store
        path = os.environ.get(PRINCIPALS)
        self._is_team = bool(path)
        try:
            self.directory: Directory = load_directory(Path(path)) if path else Directory()
        except AccessError as error:
            raise NotAllowed(str(error)) from error
        self.principal: Principal = self._identify(acting_as)

    def require(self, *wanted: tuple[str, Resource]) -> None:
        """Returns if all of these actions may be done to these resources; each answer is in the audit log by then.

        Raises:
            NotAllowed: One may not, or the answers could not be written.
        """
        from workflows.access import AccessError, Question

        questions = [Question(action, resource) for action, resource in wanted]
        try:
            with self._audit() as audit:
                decisions = self._authorizer(audit).decide_each(self.principal, questions)
        except AccessError as error:
            raise NotAllowed(str(error), FAILED) from error
        for question, decision in zip(questions, decisions, strict=True):
            if not decision.allowed:
                told = ", ".join(decision.policies)
                why = f"policy {told} forbids it" if told else "no policy permits it"
                raise NotAllowed(
                    f"{self.principal.subject} may not {question.action} {question.resource.subject}: {why}"
                )

    def decides_as(self, by: str) -> str:
        """Who is written down as having decided: on one machine whoever the caller names, in a team the caller alone.

        Raises:
            NotAllowed: The caller names somebody else.
        """
        if not self._is_team:
            return by
        if by not in (self.principal.id, self.principal.subject):
            raise NotAllowed(f"{self.principal.subject} cannot decide as {by!r}")
        return self.principal.subject

    def _identify(self, acting_as: str | None) -> Principal:
        from workflows.access import local_person

        person = local_person(self._storage)
        if not self._is_team:
            if acting_as and acting_as != person.subject:
                raise NotAllowed(f"--as {acting_as}: there are no principals; name their file in {PRINCIPALS}")
            return person
        key = os.environ.get(API_KEY)
        if key:
            found = self.directory.by_api_key(key)
            if found is None:
                self._refuse(f"{API_KEY} is the key of no principal in {os.environ[PRINCIPALS]}")
            elif acting_as and acting_as != found.subject:
                self._refuse(f"--as {acting_as}: the key in {API_KEY} is that of {found.subject}")
            else:
                return found
        # Whoever owns the folder could write anything into it; that they need no key takes nothing from anybody.
        subject = acting_as or person.subject
        named = self.directory.by_subject(subject)
        if not person.owns_storage or self._storage.startswith("s3://"):
            self._refuse(f"nobody vouches for {subject}: set {API_KEY}")
        if named is None:
            self._refuse(f"{subject} is no principal in {os.environ[PRINCIPALS]}")
        assert named is not None, "refused above"
        return named

    def _refuse(self, reason: str) -> None:
        """Raises NotAllowed, after the audit log has it."""
        from workflows.access import AccessError

        try:
            with self._audit() as audit:
                audit.event("unauthenticated", client="command line", reason=reason)
        except AccessError as error:
            raise NotAllowed(f"{reason}; and {error}", FAILED) from error
        raise NotAllowed(reason)

    def _authorizer(self, audit: AuditLog) -> Authorizer:
        from workflows.access import LOCAL_POLICIES, TEAM_POLICIES, Authorizer

        given = [Path(folder) for folder in os.environ.get(POLICIES, "").split(os.pathsep) if folder]
        folders = tuple(given) or ((TEAM_POLICIES,) if self._is_team else (TEAM_POLICIES, LOCAL_POLICIES))
        return Authorizer(audit, folders)

    def _audit(self) -> AbstractContextManager[AuditLog]:
        return audit_log(self._storage, self._store, "cli")
