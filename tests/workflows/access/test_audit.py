from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workflows.access import AuditLog, AuditUnavailable, Authorizer, Redactor, SigningKey, resources, verify_audit
from workflows.access.audit import MAX_BATCH, AuditFold
from workflows.access.principals import Principal
from workflows.log import Log, Store, StoreDenied, open_store

REPOSITORY = Path(__file__).resolve().parents[3]
NEVER_S = 3600.0


def records(store: Store, writer: str = "w") -> list[list[dict[str, Any]]]:
    """The entries of each record."""
    return [[*record.data["entries"]] for record in Log(store, f"audit/{writer}", AuditFold()).records()]


def entries(store: Store, writer: str = "w") -> list[dict[str, Any]]:
    return [entry for batch in records(store, writer) for entry in batch]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


class Flaky:
    """A store that refuses to create records while `is_away`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, key: str, data: bytes) -> None:
        if self.is_away:
            raise StoreDenied(self._store.uri, key, "away")
        self._store.create(key, data)


def test_plain_entries_wait_and_are_written_together(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key, flush_after_s=NEVER_S) as audit:
        for number in range(5):
            audit.record([{"n": number}], durable=False)
        assert records(folder_store) == []
    assert records(folder_store) == [[{"n": number} for number in range(5)]]


def test_plain_entries_are_written_in_time_without_being_asked(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key, flush_after_s=0.02) as audit:
        audit.record([{"n": 1}], durable=False)
        until(lambda: entries(folder_store) == [{"n": 1}])


def test_a_full_batch_does_not_wait(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key, flush_after_s=NEVER_S) as audit:
        audit.record([{"n": number} for number in range(MAX_BATCH + 1)], durable=False)
        until(lambda: len(entries(folder_store)) == MAX_BATCH + 1)
    assert [len(batch) for batch in records(folder_store)] == [MAX_BATCH, 1]


def test_a_durable_entry_is_stored_on_return_behind_those_that_waited(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key, flush_after_s=NEVER_S) as audit:
        audit.record([{"n": 1}], durable=False)
        audit.record([{"n": 2}], durable=True)
        assert entries(folder_store) == [{"n": 1}, {"n": 2}]


def test_threads_share_records_and_each_finds_its_entry_stored(folder_store: Store, key: SigningKey) -> None:
    missing = []
    with AuditLog(folder_store, "w", key) as audit:
        start = threading.Barrier(16)

        def work(number: int) -> None:
            start.wait()
            for turn in range(5):
                audit.record([{"n": number, "turn": turn}], durable=True)
            if {"n": number, "turn": 4} not in entries(folder_store):
                missing.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert missing == []
    assert len(entries(folder_store)) == 80
    assert len(records(folder_store)) <= 80
    assert verify_audit(folder_store, [key.public]).ok


def test_two_writers_of_one_name_interleave_and_do_not_fork(folder_store: Store, key: SigningKey) -> None:
    first = AuditLog(folder_store, "w", key)
    second = AuditLog(folder_store, "w", key)
    start = threading.Barrier(2)

    def work(audit: AuditLog, name: str) -> None:
        start.wait()
        for number in range(30):
            audit.event(name, n=number)

    threads = [threading.Thread(target=work, args=pair) for pair in ((first, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.close()
    second.close()
    for name in "ab":
        assert [entry["n"] for entry in entries(folder_store) if entry["event"] == name] == list(range(30))
    report = verify_audit(folder_store, [key.public])
    assert report.ok
    assert report.logs[0].num_records == report.logs[0].num_anchored == 60


def test_a_storage_that_is_away_loses_nothing_and_nothing_is_decided(folder_store: Store, key: SigningKey) -> None:
    store = Flaky(folder_store)
    with AuditLog(store, "w", key, flush_after_s=NEVER_S) as audit:  # type: ignore[arg-type]
        authorizer = Authorizer(audit)
        admin = Principal(kind="Person", id="ann", roles=("admin",))
        run = resources.run("r", team="local", authors=[])
        store.is_away = True
        assert authorizer.decide(admin, "read_run", run).allowed
        with pytest.raises(AuditUnavailable):
            authorizer.decide(admin, "start_run", run)
        store.is_away = False
        assert authorizer.decide(admin, "cancel_run", run).allowed
        assert [entry["action"] for entry in entries(folder_store)] == ["read_run", "start_run", "cancel_run"]


def test_a_storage_that_stays_away_does_not_fill_the_memory(folder_store: Store, key: SigningKey) -> None:
    store = Flaky(folder_store)
    audit = AuditLog(store, "w", key, flush_after_s=NEVER_S)  # type: ignore[arg-type]
    store.is_away = True
    batch = [{"n": number} for number in range(MAX_BATCH)]
    for _ in range(9):
        audit.record(batch, durable=False)
    with pytest.raises(AuditUnavailable):
        audit.record(batch, durable=False)
    store.is_away = False
    audit.close()
    assert verify_audit(folder_store, [key.public]).ok


def test_known_secrets_do_not_reach_the_log(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key, redactor=Redactor(["canary-secret"])) as audit:
        audit.event("refused", header="Bearer canary-secret", nested={"canary-secret": ["canary-secret"]})
    stored = b"".join(folder_store.get(info.key) for info in folder_store.list("audit"))
    assert b"canary-secret" not in stored
    assert stored.count(b"[redacted]") == 3


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000,
        {"a": "x" * 10_000},
        ["x"] * 100_000,
        float("nan"),
        {1: {2: {3: {4: {5: {6: {7: 8}}}}}}},
        b"\xff",
        "\ud800",
        {1, 2},
    ],
)
def test_no_value_from_outside_stops_the_log(value: Any, folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key) as audit:
        audit.event("odd", value=value, kept="here")
        audit.event("next")
    first, second = entries(folder_store)
    assert (first["event"], first["kept"], second["event"]) == ("odd", "here", "next")
    assert len(json.dumps(first)) < 10_000


def test_many_large_entries_fit_into_records(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "w", key) as audit:
        audit.record([{"n": number, **{f"k{i}": "x" * 490 for i in range(15)}} for number in range(300)], durable=True)
    assert [entry["n"] for entry in entries(folder_store)] == list(range(300))


def test_a_closed_log_takes_nothing_and_closes_again(folder_store: Store, key: SigningKey) -> None:
    audit = AuditLog(folder_store, "w", key)
    audit.close()
    audit.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        audit.event("late")


def test_the_name_of_a_writer_cannot_leave_its_folder(folder_store: Store, key: SigningKey) -> None:
    with AuditLog(folder_store, "../../etc/x y", key) as audit:
        audit.event("here")
    assert audit.name == "audit/etc-x-y"


WRITER = """
import sys
from pathlib import Path
from workflows.access import AuditLog, signing_key
from workflows.log import open_store
audit = AuditLog(open_store(sys.argv[1]), "w", signing_key(Path(sys.argv[2])))
for number in range(1000):
    audit.event("e", n=number)
    print(number, flush=True)
"""


@pytest.mark.parametrize(
    "place",
    [
        "log.append.before-create@9",
        "file.create.before-link@9",
        "file.create.before-flush@9",
        "log.append.after-fold@9",
    ],
)
def test_a_writer_killed_while_it_appends_loses_nothing_it_answered_for(place: str, tmp_path: Path) -> None:
    from workflows.access import signing_key

    uri, path = f"file://{tmp_path}/storage", tmp_path / "key"
    dead = subprocess.run(
        [sys.executable, "-c", WRITER, uri, str(path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "EVERLOOP_FAILPOINT": f"{place}=kill"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert dead.returncode == -9, dead.stderr
    answered = [int(line) for line in dead.stdout.split()]
    store, key = open_store(uri), signing_key(path)
    written = [entry["n"] for entry in entries(store)]
    assert answered
    assert written[: len(answered)] == answered
    assert len(written) - len(answered) in (0, 1)
    report = verify_audit(store, [key.public])
    assert report.ok, report.findings
    with AuditLog(store, "w", key) as audit:
        audit.event("e", n=-1)
    assert [entry["n"] for entry in entries(store)] == [*written, -1]
    assert verify_audit(store, [key.public]).ok
