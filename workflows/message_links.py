"""The links of a message: the page of its run and, where a person is asked to decide, a link to decide by.

The token of an approval link is made where the message is sent and stands in no record; the log holds its SHA-256. One
token serves all receivers and repetitions of a question as long as this process lives. After a restart there is another
one: both are good, and the first decision wins, because the gate of the run takes one. The older one stays good on
purpose: the repetition has the id of the same event, so a receiver that has it already drops it, and then the older
link is the only one that a person has.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workflows import run_facts
from workflows.access import (
    LOCAL_POLICIES,
    TEAM_POLICIES,
    Approvals,
    Authorizer,
    Directory,
    FollowedDirectory,
    Principals,
)
from workflows.access.approvals import DEFAULT_EXPIRES_S
from workflows.access.errors import AuditUnavailable
from workflows.engine import Engine, RunNotFound
from workflows.engine.state import OVER
from workflows.outbox import Found

MIN_LEFT_S = 60.0
"""A gate that closes sooner is not asked about any more."""


class MessageLinks:
    """Makes links; see `workflows.outbox.dispatcher.Links`. Safe to use from threads.

    Args:
        engine: Knows which gates are open.
        public_url: How people reach the HTTP door.
        principals: The team's directory, or None for one machine.

    Raises:
        workflows.access.AccessError: The directory or the policies are wrong.
    """

    def __init__(self, engine: Engine, public_url: str, principals: Path | None = None) -> None:
        self._engine = engine
        self._public_url = public_url.rstrip("/")
        self._directory: Principals = FollowedDirectory(principals) if principals else Directory()
        folders = (TEAM_POLICIES,) if principals else (TEAM_POLICIES, LOCAL_POLICIES)
        self._approvals = Approvals(engine.store, Authorizer(_Unwritten(), folders), _not_here)
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, found: Found) -> Mapping[str, str] | None:
        note = found.notification
        place = f"runs/{quote(note.run_id, safe='')}" if note.run_id else ""
        links = {"page": f"{self._public_url}/{place}"}
        if note.event != "approval.requested" or not found.log.startswith("runs/"):
            return links
        token = self._token(found.id, note.run_id, note.facts)
        if token is None:
            return None
        return {
            **links,
            "approval": f"{self._public_url}/v1/approvals/{token}",
            "approval_page": f"{self._public_url}/approvals/{token}",
        }

    def _token(self, event_id: str, run_id: str, facts: Mapping[str, Any]) -> str | None:
        """The token of a question, or None if nobody needs to answer it any more."""
        gate, digest = str(facts.get("gate", "")), str(facts.get("digest", ""))
        try:
            view = self._engine.view(run_id)
        except RunNotFound:
            return None
        now = self._engine.store.now()
        wait = next((wait for wait in view.waits if (wait.name, wait.subject) == (gate, digest)), None)
        left_s = DEFAULT_EXPIRES_S if wait is None or wait.due_at is None else wait.due_at - now
        if wait is None or view.status in OVER or left_s < MIN_LEFT_S:
            return None
        with self._lock:
            if event_id not in self._tokens:
                about = run_facts.gate(self._engine, self._directory, run_id, gate).attributes
                self._tokens[event_id] = self._approvals.issue(
                    run_id,
                    gate,
                    digest,
                    team=about["team"],
                    protected=about["protected"],
                    authors=tuple(about["authors"]),
                    expires_s=left_s,
                )
            return self._tokens[event_id]


class _Unwritten:
    """The audit log of a process that decides nothing: whoever asked it for a decision would get none."""

    def record(self, entries: Sequence[Mapping[str, Any]], *, durable: bool) -> None:  # noqa: ARG002
        raise AuditUnavailable("none", "links are made here, decisions are not")


def _not_here(_: object) -> None:
    raise AuditUnavailable("none", "links are made here, decisions are not")
