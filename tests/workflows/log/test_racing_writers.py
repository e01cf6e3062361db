"""Writers and outsiders race for the slots of one log.

Nothing is lost, nothing doubled, and no decision rests on an old state.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.log.counting import Account, Ledger, MemoryStore, Overdrawn, close, move
from workflows.log import Closed, Draft, Log, Record, Store, StoreUnavailable, open_store

REPOSITORY = Path(__file__).resolve().parents[3]


def check_ledger(log: Log[Account]) -> list[Record]:
    """Replays the log step by step: each record must have been allowed by the state that the records before it make."""
    fold = Ledger()
    state = fold.initial()
    records = list(log.records())
    for record in records:
        if record.kind == "moved":
            assert not state.is_closed, f"record {record.index} follows the closing one"
            assert record.data["operation"] not in state.operations, f"{record.data['operation']} stands twice"
            assert state.balance + record.data["amount"] >= 0, f"record {record.index} overdraws"
        state = fold.apply(state, record)
    assert len({record.record_id for record in records}) == len(records)
    assert log.verify().ok
    return records


plans = st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=6), min_size=2, max_size=4)
faults = st.dictionaries(st.integers(0, 30), st.sampled_from(["lost", "failed", "late"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(plans=plans, faults=faults, close_after=st.none() | st.integers(0, 6))
def test_whatever_the_answers_the_log_is_a_history_that_decide_allowed(
    plans: list[list[int]], faults: dict[int, str], close_after: int | None
) -> None:
    store = MemoryStore(faults=faults)
    certain: list[str] = []
    refused: list[str] = []
    barrier = threading.Barrier(len(plans))

    def write(name: int, amounts: list[int]) -> None:
        log = Log(store, "l", Ledger(), max_attempts=4)
        barrier.wait()
        for number, amount in enumerate(amounts):
            operation = f"{name}-{number}"
            try:
                if name == 0 and number == close_after:
                    log.append(close)
                assert log.append(move(operation, amount)) is not None
            except (Overdrawn, Closed):
                refused.append(operation)
            except StoreUnavailable:
                continue
            else:
                certain.append(operation)

    threads = [threading.Thread(target=write, args=plan) for plan in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    stored = [record.data["operation"] for record in check_ledger(Log(store, "l", Ledger())) if record.kind == "moved"]
    assert set(certain) <= set(stored)
    assert not set(refused) & set(stored)


def test_processes_race_without_loss(storage: str) -> None:
    store = open_store(storage)
    Log(store, "ledgers/raced", Ledger()).append(move("opening", 5))
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.workflows.log.racing_writer", storage, name, "40"],
            cwd=REPOSITORY,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    written = {}
    for writer in writers:
        output, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        written |= {index: (operation, record_id) for index, operation, record_id in json.loads(output)}

    records = check_ledger(Log(store, "ledgers/raced", Ledger()))
    assert {record.index: (record.data["operation"], record.record_id) for record in records[1:]} == written
    assert len(records) > 60


def test_an_outsider_that_cancels_is_obeyed_by_all(store: Store) -> None:
    started = threading.Barrier(5)
    stopped: list[str] = []

    def work(name: str) -> None:
        log = Log(store, "l", Ledger())
        started.wait()
        for number in range(10_000):
            try:
                log.append(move(f"{name}-{number}", 1))
            except Closed:
                stopped.append(name)
                return

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    started.wait()
    Log(store, "l", Ledger()).append(close)
    for thread in threads:
        thread.join()

    assert sorted(stopped) == list("abcd")
    check_ledger(Log(store, "l", Ledger()))


def test_of_two_claims_one_holds_and_the_other_is_told(store: Store) -> None:
    """The engine's claim in small: epoch + 1, and a refusal for the one who loses the slot to it."""

    class Claims:
        def initial(self) -> int:
            return 0

        def apply(self, state: int, record: Record) -> int:
            return record.epoch

        def dump(self, state: int) -> int:
            return state

        def load(self, data: int) -> int:
            return data

    won: list[str] = []
    barrier = threading.Barrier(4)

    def claim(name: str) -> None:
        log = Log(store, "l", Claims())
        held = log.state
        barrier.wait()
        if log.append(lambda epoch: Draft("claimed", {"by": name}, epoch + 1) if epoch == held else None):
            won.append(name)

    threads = [threading.Thread(target=claim, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert [record.data["by"] for record in Log(store, "l", Claims()).records()] == won
