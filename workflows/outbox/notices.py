"""The log `notices`: what others tell through the loop's outbox (Airflow, n8n, a missed schedule), once per key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workflows.log import SEVERITIES, Draft, Log, Notification, Record, Store
from workflows.outbox.errors import InvalidNotice

NOTICES = "notices"
NUM_KEYS = 10_000
"""Keys that are remembered, the newest: within so many notices none is posted twice."""

MAX_TITLE_CHARS, MAX_TEXT_CHARS, MAX_FACTS = 300, 5000, 100
_EVENT = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+){0,4}")
_FIELDS = frozenset({"event", "severity", "title", "text", "run_id", "alias", "facts"})


@dataclass(frozen=True, slots=True)
class NoticesState:
    """Keys of the newest notices, oldest first. The dict is changed in place: only its size matters to copies."""

    keys: dict[str, None]


class NoticesFold:
    """Folds `notice`."""

    def initial(self) -> NoticesState:
        return NoticesState({})

    def apply(self, state: NoticesState, record: Record) -> NoticesState:
        if record.kind == "notice":
            state.keys[record.data["key"]] = None
            if len(state.keys) > NUM_KEYS:
                del state.keys[next(iter(state.keys))]
        return state

    def dump(self, state: NoticesState) -> Any:
        return list(state.keys)

    def load(self, data: Any) -> NoticesState:
        return NoticesState(dict.fromkeys(data))


def post_notice(store: Store, body: Mapping[str, Any], key: str) -> bool:
    """Records a notice, which the outbox delivers like any other notification.

    Args:
        store: The storage.
        body: `event`, `severity`, `title`, `text`, and perhaps `run_id`, `alias`, `facts`.
        key: Names the cause: the same key is posted once, however often it is told.

    Returns:
        Whether it was new.

    Raises:
        InvalidNotice: A field is missing, unknown, or breaks a rule.
    """
    note = _checked(body)
    if not 1 <= len(key) <= 200:
        raise InvalidNotice("key", "1 to 200 characters")

    def decide(state: NoticesState) -> Draft | None:
        if key in state.keys:
            return None
        return Draft("notice", {**note.to_json(), "key": key, "at": store.now()}, notify=(note.to_json(),))

    return Log(store, NOTICES, NoticesFold()).append(decide) is not None


def _checked(body: Mapping[str, Any]) -> Notification:
    unknown = sorted(body.keys() - _FIELDS)
    if unknown:
        raise InvalidNotice(unknown[0], f"unknown; a notice has {', '.join(sorted(_FIELDS))}")
    for name, longest in (("title", MAX_TITLE_CHARS), ("text", MAX_TEXT_CHARS)):
        if not isinstance(body.get(name), str) or not 1 <= len(body[name]) <= longest:
            raise InvalidNotice(name, f"text of 1 to {longest} characters")
    if not isinstance(body.get("event"), str) or not _EVENT.fullmatch(body["event"]) or len(body["event"]) > 100:
        raise InvalidNotice("event", "words of a-z, 0-9 and _ joined by dots, at most 100 characters")
    if body.get("severity") not in SEVERITIES:
        raise InvalidNotice("severity", f"one of {', '.join(SEVERITIES)}")
    for name in ("run_id", "alias"):
        if not isinstance(body.get(name) or "", str) or len(body.get(name) or "") > 200:
            raise InvalidNotice(name, "text of at most 200 characters")
    facts = body.get("facts") or {}
    if not isinstance(facts, Mapping) or len(facts) > MAX_FACTS:
        raise InvalidNotice("facts", f"an object of at most {MAX_FACTS} entries")
    return Notification.from_json(body)
