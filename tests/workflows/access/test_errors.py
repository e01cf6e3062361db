from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from workflows import access
from workflows.log import Refused

ERRORS = [
    access.PolicyError(Path("a.cedar"), 3, "why"),
    access.Denied("Person::a", "promote", "Release::b", ("four-eyes",)),
    access.AuditUnavailable("audit/x", "away"),
    access.SigningKeyError(Path("k"), "why"),
    access.PrincipalError("p.toml", "why"),
    access.CredentialError("http://x", "why"),
    access.UnknownToken(),
    access.TokenExpired("r", "g"),
    access.TokenSpent("r", "g", "Person::a"),
    access.ApprovalVoid("r", "g"),
    access.WebhookRefused("why"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling_with_their_fields(error: access.AccessError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_a_refused_approval_is_a_refusal_of_the_log() -> None:
    assert issubclass(access.ApprovalRefused, Refused)
    assert issubclass(access.ApprovalRefused, access.AccessError)
