"""Notices from outside: once a key, checked at the door."""

from __future__ import annotations

from typing import Any

import pytest

from workflows.log import Store, stored_records
from workflows.outbox import NOTICES, InvalidNotice, post_notice

BODY = {"event": "schedule.missed", "severity": "warning", "title": "late", "text": "It is late."}


def test_a_key_is_posted_once(store: Store) -> None:
    assert [post_notice(store, BODY, "k") for _ in range(3)] == [True, False, False]
    assert post_notice(store, BODY, "other")
    first, _ = stored_records(store, NOTICES)
    assert first.kind == "notice"
    assert first.data["key"] == "k"
    (note,) = first.notify
    assert (note["event"], note["title"], note["run_id"], note["facts"]) == ("schedule.missed", "late", "", {})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event": "Bad Event"}, "event"),
        ({"event": None}, "event"),
        ({"severity": "loud"}, "severity"),
        ({"title": ""}, "title"),
        ({"title": 7}, "title"),
        ({"text": "x" * 5001}, "text"),
        ({"run_id": ["a"]}, "run_id"),
        ({"alias": "a" * 201}, "alias"),
        ({"facts": [1]}, "facts"),
        ({"facts": {str(n): n for n in range(101)}}, "facts"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused_by_name(store: Store, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidNotice) as refused:
        post_notice(store, {**BODY, **changes}, "k")
    assert refused.value.field == field
    assert not list(store.list(NOTICES))


def test_an_empty_or_endless_key_is_refused(store: Store) -> None:
    for key in ("", "k" * 201):
        with pytest.raises(InvalidNotice, match="key"):
            post_notice(store, BODY, key)
