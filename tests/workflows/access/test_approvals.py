from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from workflows.access import (
    ApprovalDecision,
    ApprovalRefused,
    Approvals,
    ApprovalVoid,
    Authorizer,
    Denied,
    Principal,
    TokenExpired,
    TokenSpent,
    UnknownToken,
)
from workflows.access.approvals import ApprovalFold
from workflows.log import Refused, Store

ANN = Principal(kind="Person", id="ann", roles=("approver",), team="search")
BOB = Principal(kind="Person", id="bob", roles=("approver",), team="search")
EVE = Principal(kind="Person", id="eve", roles=("approver",), team="search")
VIEWER = Principal(kind="Person", id="vic", roles=("viewer",), team="search")
N8N = Principal(kind="Service", id="n8n", roles=("approver",), team="search")
DIGEST = "d" * 64


class Clocked:
    """A store whose clock the test sets."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.time = 1_000.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def now(self) -> float:
        return self.time


class Run:
    """Takes decisions as a run does: one a gate."""

    def __init__(self) -> None:
        self.decisions: list[ApprovalDecision] = []
        self.dies = False
        self.is_over = False

    def approve(self, decision: ApprovalDecision) -> None:
        if self.dies:
            raise ConnectionError("killed in between")
        if self.is_over:
            raise Refused("the run is cancelled")
        if decision not in self.decisions:
            self.decisions.append(decision)


@pytest.fixture
def store(folder_store: Store) -> Clocked:
    return Clocked(folder_store)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def approvals(store: Clocked, authorizer: Authorizer, run: Run) -> Approvals:
    return Approvals(store, authorizer, run.approve)


@pytest.fixture
def token(approvals: Approvals) -> str:
    return issue(approvals)


def issue(approvals: Approvals, **changes: Any) -> str:
    return approvals.issue(
        "r1",
        "canary",
        DIGEST,
        **{"team": "search", "protected": True, "authors": ("Person::eve",), "expires_s": 60, **changes},
    )


@pytest.mark.parametrize("granted", [True, False])
def test_a_decision_reaches_the_run_with_who_and_why(granted: bool, approvals: Approvals, token: str, run: Run) -> None:
    decision = approvals.decide(token, ANN, granted, digest=DIGEST, reason="looks well")
    assert run.decisions == [decision]
    assert (decision.run, decision.gate, decision.digest) == ("r1", "canary", DIGEST)
    assert (decision.granted, decision.by, decision.reason) == (granted, "Person::ann", "looks well")
    assert approvals.open_requests() == []


def test_looking_decides_nothing_and_may_be_repeated(approvals: Approvals, token: str, run: Run) -> None:
    for _ in range(3):
        state = approvals.show(token)
        assert state.request is not None
        assert state.request.gate == "canary"
        assert state.decision is None
    assert run.decisions == []
    assert approvals.decide(token, ANN, True, digest=DIGEST).granted


def test_a_token_has_256_random_bits_and_is_stored_nowhere(approvals: Approvals, tmp_path: Path) -> None:
    tokens = {issue(approvals) for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 43
    stored = [(str(path), path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) >= 20
    for token in tokens:
        assert not any(token in name or token.encode() in data for name, data in stored)


@pytest.mark.parametrize("wrong", ["", "x", "../../runs/r1", "\ud800", "a" * 100_000])
def test_a_token_that_was_not_issued_is_unknown_and_leaves_no_trace(
    wrong: str, approvals: Approvals, token: str, run: Run, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*.json"))
    for call in (lambda: approvals.show(wrong), lambda: approvals.decide(wrong, ANN, True, digest=DIGEST)):
        with pytest.raises(UnknownToken):
            call()
    assert sorted(tmp_path.rglob("*.json")) == before
    assert approvals.decide(token, ANN, True, digest=DIGEST)


def test_a_token_is_used_once(approvals: Approvals, token: str, run: Run) -> None:
    approvals.decide(token, ANN, True, digest=DIGEST)
    for principal, granted in ((ANN, True), (ANN, False), (BOB, True)):
        with pytest.raises(TokenSpent, match="decided already by Person::ann"):
            approvals.decide(token, principal, granted, digest=DIGEST)
    assert len(run.decisions) == 1
    assert approvals.show(token).decision == run.decisions[0]


def test_of_many_at_once_one_decides(
    store: Clocked, authorizer: Authorizer, approvals: Approvals, token: str, run: Run
) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(12)

    def click(number: int) -> None:
        mine = Approvals(store, authorizer, run.approve)
        start.wait()
        try:
            mine.decide(token, (ANN, BOB)[number % 2], number % 3 > 0, digest=DIGEST)
            outcomes.append("decided")
        except TokenSpent:
            outcomes.append("spent")

    threads = [threading.Thread(target=click, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["decided"] + ["spent"] * 11
    assert len(run.decisions) == 1


def test_a_token_expires_by_the_clock_of_the_store(approvals: Approvals, store: Clocked, run: Run) -> None:
    early, late = issue(approvals, expires_s=60), issue(approvals, expires_s=60)
    store.time += 59
    assert approvals.decide(early, ANN, True, digest=DIGEST)
    store.time += 1
    with pytest.raises(TokenExpired):
        approvals.show(late)
    with pytest.raises(TokenExpired):
        approvals.decide(late, ANN, True, digest=DIGEST)
    assert approvals.show(early).decision is not None
    assert approvals.open_requests() == []
    assert len(run.decisions) == 1


def test_a_changed_artifact_voids_the_token_for_good(approvals: Approvals, token: str, run: Run) -> None:
    other = issue(approvals)
    with pytest.raises(ApprovalVoid, match="has changed"):
        approvals.decide(token, ANN, True, digest="e" * 64)
    with pytest.raises(ApprovalVoid):
        approvals.decide(token, ANN, True, digest=DIGEST)
    assert run.decisions == []
    assert approvals.decide(other, ANN, True, digest=DIGEST)


class TestWhoDecides:
    @pytest.mark.parametrize(
        "principal", [VIEWER, N8N, EVE, Principal(kind="Person", id="x", roles=("approver",), team="ads")]
    )
    def test_somebody_without_the_right_is_denied_audited_and_spends_nothing(
        self, principal: Principal, approvals: Approvals, token: str, run: Run, auditor: Any
    ) -> None:
        with pytest.raises(Denied):
            approvals.decide(token, principal, True, digest=DIGEST)
        denial = auditor.entries[-1]
        assert (denial["principal"], denial["action"], denial["decision"]) == (principal.subject, "approve", "deny")
        assert auditor.durable[-1]
        assert run.decisions == []
        assert approvals.decide(token, ANN, True, digest=DIGEST).by == "Person::ann"
        assert auditor.entries[-1]["decision"] == "allow"

    def test_somebody_without_the_right_cannot_void_a_token(self, approvals: Approvals, token: str) -> None:
        with pytest.raises(Denied):
            approvals.decide(token, VIEWER, True, digest="e" * 64)
        assert approvals.decide(token, ANN, True, digest=DIGEST)

    def test_an_author_approves_where_the_alias_is_not_protected(self, approvals: Approvals) -> None:
        open_token = issue(approvals, protected=False)
        assert approvals.decide(open_token, EVE, True, digest=DIGEST).by == "Person::eve"


class TestDelivery:
    def test_what_was_decided_before_a_crash_is_delivered_after_it(
        self, approvals: Approvals, token: str, run: Run
    ) -> None:
        issue(approvals)
        run.dies = True
        with pytest.raises(ConnectionError):
            approvals.decide(token, ANN, True, digest=DIGEST)
        with pytest.raises(TokenSpent):
            approvals.decide(token, BOB, False, digest=DIGEST)
        assert approvals.deliver_pending() == 0
        run.dies = False
        assert approvals.deliver_pending() == 1
        assert approvals.deliver_pending() == 0
        assert [(decision.by, decision.granted) for decision in run.decisions] == [("Person::ann", True)]

    def test_a_run_that_cannot_be_told_keeps_no_other_from_its_decision(
        self, approvals: Approvals, store: Clocked, run: Run
    ) -> None:
        run.dies = True
        for name in ("r1", "r2", "r3"):
            token = approvals.issue(name, "release", DIGEST, team="search", protected=False, authors=(), expires_s=60)
            with pytest.raises(ConnectionError):
                approvals.decide(token, ANN, True, digest=DIGEST)
        run.dies = False

        def deliver(decision: ApprovalDecision) -> None:
            if decision.run == "r2":
                raise ConnectionError
            run.approve(decision)

        reopened = Approvals(store, approvals._authorizer, deliver)
        assert [reopened.deliver_pending() for _ in range(2)] == [2, 0]
        assert {decision.run for decision in run.decisions} == {"r1", "r3"}

    def test_a_run_that_is_over_is_told_once(self, approvals: Approvals, token: str, run: Run) -> None:
        run.is_over = True
        with pytest.raises(Refused, match="cancelled"):
            approvals.decide(token, ANN, True, digest=DIGEST)
        assert approvals.deliver_pending() == 0

    def test_links_that_nobody_can_use_any_more_are_not_read_again(
        self, approvals: Approvals, store: Clocked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("r1", "r2", "r3"):
            approvals.issue(name, "release", DIGEST, team="search", protected=False, authors=(), expires_s=60)
        read: list[str] = []
        monkeypatch.setattr(store, "get", lambda key: (read.append(key), store._store.get(key))[1], raising=False)
        assert approvals.deliver_pending() == 0
        assert len({key.rpartition("/")[0] for key in read}) == 3
        store.time += 61
        approvals.deliver_pending()
        read.clear()
        assert approvals.deliver_pending() == 0
        assert read == []

    def test_open_requests_come_oldest_first(self, approvals: Approvals, store: Clocked) -> None:
        for gate in ("a", "b", "c"):
            store.time += 1
            approvals.issue("r1", gate, DIGEST, team="search", protected=False, authors=(), expires_s=60)
        assert [request.gate for request in approvals.open_requests()] == ["a", "b", "c"]


def test_a_state_survives_its_snapshot(approvals: Approvals, token: str) -> None:
    approvals.decide(token, ANN, True, digest=DIGEST)
    fold, state = ApprovalFold(), approvals.show(token)
    assert state.is_delivered
    assert fold.load(fold.dump(state)) == state
    assert fold.load(fold.dump(fold.initial())) == fold.initial()


def test_all_refusals_are_of_one_family() -> None:
    assert {error.__name__ for error in ApprovalRefused.__subclasses__()} == {
        "UnknownToken", "TokenExpired", "TokenSpent", "ApprovalVoid",
    }  # fmt: skip
