"""Decides, by Cedar, and writes down every decision.

Cedar skips a policy that fails while it is evaluated; a `forbid` that fails would be a hole. So the answer is "yes"
only if Cedar says `Allow` and reports no error. Questions are checked against the schema: an unknown action, role or
attribute is an error too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import cedarpy

from workflows.access.errors import Denied, PolicyError
from workflows.access.policy_files import TEAM_POLICIES, PolicySet, load_policies
from workflows.access.principals import Principal
from workflows.access.resources import Resource

_log = logging.getLogger(__name__)

# Seen often, change nothing: an allow of these may wait a second to be written. All else is written before the answer.
OBSERVING = frozenset(
    {"read_run", "read_approval", "read_release", "read_model", "read_dataset", "read_metrics", "call_endpoint"}
)
_MAX_ENTITIES = 1024
_MAX_ANSWERS = 8192
LISTED_AGAIN_S = 3600.0
"""A listing that shows the same to the same principal is written to the audit log once in this time."""

_MAX_LISTINGS = 1024


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer.

    Attributes:
        allowed: Whether it is "yes".
        policies: `@id` of the policies that decided; empty if nothing permits.
        errors: Why there is no clean answer; an answer with errors is "no".
    """

    allowed: bool
    policies: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """May this be done to that?

    Attributes:
        action: Name of an action in the schema.
        resource: What it is done to.
        context: What else the action's policies look at.
    """

    action: str
    resource: Resource
    context: Mapping[str, Any] = field(default_factory=dict)


class _InForce:
    """A policy set, and the entities that were asked about lately: parsing them takes half the time of a decision.
    What listings ask again and again is answered once: nothing but the question and the policies decides.
    """

    def __init__(self, policy_set: PolicySet) -> None:
        self.policy_set = policy_set
        self.entities = lru_cache(maxsize=_MAX_ENTITIES)(self._parse)
        self.answers: OrderedDict[str, Decision] = OrderedDict()

    def _parse(self, text: str) -> Any:
        return cedarpy.Entities.from_json_str(text, self.policy_set.schema)


class Auditor(Protocol):
    """Where decisions are written. `workflows.access.audit.AuditLog` is one."""

    def record(self, entries: Sequence[Mapping[str, Any]], *, durable: bool) -> None:
        """Writes entries; if `durable`, returns only when they are stored.

        Raises:
            AuditUnavailable: They could not be stored.
        """


class Authorizer:
    """One set of policies, one audit log. Safe to use from threads.

    Args:
        auditor: Receives every decision.
        folders: Folders of policies. The default knows teams and roles only; `(TEAM_POLICIES, LOCAL_POLICIES)` adds the
            owner of the storage on one machine.
        schema_path: By default `everloop.cedarschema` in the first folder.

    Raises:
        PolicyError: The policies or their schema are wrong; there is no authorizer then.
    """

    def __init__(
        self, auditor: Auditor, folders: Sequence[Path] = (TEAM_POLICIES,), *, schema_path: Path | None = None
    ) -> None:
        self.reload_error: PolicyError | None = None
        self._auditor = auditor
        self._folders = tuple(folders)
        self._schema_path = schema_path
        self._reloading = threading.Lock()
        self._listing = threading.Lock()
        self._listed: OrderedDict[tuple[str, str, str], tuple[str, float]] = OrderedDict()
        self._seen = self._fingerprint()
        self._in_force = _InForce(load_policies(self._folders, schema_path))

    @property
    def policies_digest(self) -> str:
        """SHA-256 over the policies in force."""
        return self._in_force.policy_set.digest

    def decide(
        self, principal: Principal, action: str, resource: Resource, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """Answers one question.

        Raises:
            AuditUnavailable: The answer could not be written, so there is none.
        """
        return self.decide_each(principal, [Question(action, resource, context or {})])[0]

    def check(
        self, principal: Principal, action: str, resource: Resource, context: Mapping[str, Any] | None = None
    ) -> None:
        """Returns if it is allowed.

        Raises:
            Denied: It is not.
            AuditUnavailable: The answer could not be written, so there is none.
        """
        decision = self.decide(principal, action, resource, context)
        if not decision.allowed:
            raise Denied(principal.subject, action, resource.subject, decision.policies)

    def decide_each(self, principal: Principal, questions: Sequence[Question]) -> list[Decision]:
        """Answers several questions of one principal; they share a record in the audit log."""
        in_force = self._in_force
        decisions = [_evaluate(in_force, principal, question) for question in questions]
        entries = [
            _entry(in_force.policy_set, principal, question, decision)
            for question, decision in zip(questions, decisions, strict=True)
        ]
        durable = any(
            not decision.allowed or question.action not in OBSERVING
            for question, decision in zip(questions, decisions, strict=True)
        )
        self._auditor.record(entries, durable=durable)
        return decisions

    def select(self, principal: Principal, questions: Sequence[Question], *, of: str) -> list[bool]:
        """Which of many things a listing may show to a principal.

        One entry for each action says how many were asked about, shown and held back, not one for each thing: who looks
        every few seconds would fill the audit log. A listing that shows the same as the last one is written again only
        after `LISTED_AGAIN_S`. To act on a single thing is asked, and written down, by `check`.

        Args:
            principal: Who looks.
            questions: One for each thing.
            of: What is listed, for the audit log.

        Raises:
            AuditUnavailable: The answer could not be written, so there is none.
        """
        in_force = self._in_force
        with self._listing:
            decisions = [_answered_once(in_force, principal, question) for question in questions]
            news = {}
            for action in sorted({question.action for question in questions}):
                pairs = [pair for pair in zip(questions, decisions, strict=True) if pair[0].action == action]
                key, mark = (principal.subject, action, of), _mark(in_force.policy_set, principal, pairs)
                before, at = self._listed.get(key, ("", 0.0))
                if before != mark or time.monotonic() - at >= LISTED_AGAIN_S:
                    news[key] = mark, _listing_entry(in_force.policy_set, principal, action, of, pairs)
            entries = [entry for _, entry in news.values()]
            if entries:
                self._auditor.record(entries, durable=any("errors" in entry for entry in entries))
            for key, (mark, _) in news.items():
                self._listed[key] = mark, time.monotonic()
                self._listed.move_to_end(key)
            while len(self._listed) > _MAX_LISTINGS:
                self._listed.popitem(last=False)
        return [decision.allowed for decision in decisions]

    def reload_if_changed(self) -> bool:
        """Loads the files again if one of them changed. Wrong ones leave the old set in force, in `reload_error` and in
        the log.

        Returns:
            Whether another set is in force now.

        Raises:
            AuditUnavailable: What happened could not be written; nothing has changed, and the next call tries again.
        """
        with self._reloading:
            fingerprint = self._fingerprint()
            if fingerprint == self._seen:
                return False
            old = self._in_force.policy_set
            try:
                new = load_policies(self._folders, self._schema_path)
            except PolicyError as error:
                self.reload_error = error
                _log.error("policies not loaded, the old ones stay in force: %s", error)
                self._note("policies_refused", old.digest, error=str(error))
                self._seen = fingerprint
                return False
            self.reload_error = None
            if new.digest != old.digest:
                # While this cannot be written the change is not in force, and is tried again at the next call.
                self._note("policies_loaded", new.digest, before=old.digest)
                self._in_force = _InForce(new)
            self._seen = fingerprint
            return new.digest != old.digest

    def _note(self, event: str, digest: str, **facts: str) -> None:
        self._auditor.record([{"at": time.time(), "event": event, "policies_digest": digest, **facts}], durable=True)

    def _fingerprint(self) -> tuple[tuple[str, int, int], ...]:
        paths = [path for folder in self._folders for path in sorted(folder.glob("*.cedar*"))]
        if self._schema_path is not None:
            paths.append(self._schema_path)
        found = []
        for path in paths:
            try:
                stat = path.stat()
            except OSError:
                continue
            found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return tuple(found)


def _evaluate(in_force: _InForce, principal: Principal, question: Question) -> Decision:
    request = {
        "principal": principal.uid,
        "action": {"type": "Action", "id": question.action},
        "resource": question.resource.uid,
        "context": dict(question.context),
    }
    try:
        entities = in_force.entities(json.dumps([principal.entity(), question.resource.entity()]))
        policy_set = in_force.policy_set
        result = cedarpy.is_authorized(request, policy_set.policies, entities, policy_set.schema)
        diagnostics = result.diagnostics
        names = diagnostics.id_annotations_by_reason
        policies = tuple(sorted(names.get(reason, reason) for reason in diagnostics.reasons))
        errors = tuple(_without_entities(error) for error in diagnostics.errors)
        return Decision(bool(result.allowed) and not errors, policies, errors)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong while deciding is a "no"
        return Decision(allowed=False, errors=(f"{type(error).__name__}: {error}"[:500],))


def _answered_once(in_force: _InForce, principal: Principal, question: Question) -> Decision:
    key = json.dumps([question.action, principal.entity(), question.resource.entity(), dict(question.context)])
    known = in_force.answers.get(key)
    if known is None:
        known = in_force.answers[key] = _evaluate(in_force, principal, question)
    in_force.answers.move_to_end(key)
    while len(in_force.answers) > _MAX_ANSWERS:
        in_force.answers.popitem(last=False)
    return known


def _without_entities(error: str) -> str:
    """Cedar repeats the whole entities in front of the reason; the reason is enough."""
    return error.rsplit("]: ", 1)[-1][:500]


def _entry(policy_set: PolicySet, principal: Principal, question: Question, decision: Decision) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "at": time.time(),
        "principal": principal.subject,
        "roles": list(principal.roles),
        "action": question.action,
        "resource": question.resource.subject,
        "decision": "allow" if decision.allowed else "deny",
        "policies": list(decision.policies),
        "policies_digest": policy_set.digest[:16],
    }
    if question.context:
        entry["context"] = dict(question.context)
    if decision.errors:
        entry["errors"] = list(decision.errors)
    return entry


def _mark(policy_set: PolicySet, principal: Principal, pairs: Sequence[tuple[Question, Decision]]) -> str:
    """The same for two listings in which the same things were shown and held back by the same policies."""
    answers = [(question.resource.subject, answer.allowed) for question, answer in pairs]
    return hashlib.sha256(json.dumps([policy_set.digest, principal.entity(), answers]).encode()).hexdigest()


def _listing_entry(
    policy_set: PolicySet, principal: Principal, action: str, of: str, pairs: Sequence[tuple[Question, Decision]]
) -> dict[str, Any]:
    num_shown = sum(answer.allowed for _, answer in pairs)
    entry: dict[str, Any] = {
        "at": time.time(),
        "event": "listed",
        "principal": principal.subject,
        "roles": list(principal.roles),
        "action": action,
        "of": of,
        "asked": len(pairs),
        "shown": num_shown,
        "held_back": len(pairs) - num_shown,
        "policies_digest": policy_set.digest[:16],
    }
    errors = sorted({error for _, answer in pairs for error in answer.errors})
    if errors:
        entry["errors"] = errors[:3]
    return entry
