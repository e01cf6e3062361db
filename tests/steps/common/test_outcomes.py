from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.common.outcomes import MAX_BATCH, Outcome, OutcomeReader, OutcomeWriter, prompt_digest
from workflows.log import Store, StoreUnavailable, open_store


def outcome(name: str, **changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "request_id": name,
        "session": f"session-{name}",
        "at": 1.0,
        "variant": "champion",
        "version": "1",
        "status": 200,
    }
    return Outcome(**{**settings, **changes})


def wait_until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


class Away:
    """A store whose writes fail until it is back."""

    def __init__(self, store: Store) -> None:
        self._store, self.back, self.num_failed = store, False, 0

    def create(self, key: str, data: bytes) -> None:
        if not self.back:
            self.num_failed += 1
            raise StoreUnavailable(self._store.uri, key, "away")
        self._store.create(key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_every_field_comes_back_as_it_went(store: Store) -> None:
    full = outcome(
        "a",
        variant="canary",
        status=502,
        rollout="r",
        step=2,
        weight=0.25,
        ttft_s=0.5,
        tpot_s=0.01,
        num_prompt_tokens=3,
        num_tokens=7,
        finish_reason="error",
        bad=("failed", "slow"),
        nats_per_byte=1.5,
        fell_back=True,
        replayed=True,
        prompt_digest=prompt_digest("hi"),
        prompt="hi",
        answer="there",
    )
    writer = OutcomeWriter(store=store, alias="demo")
    writer.add(full)
    writer.add(outcome("b"))
    writer.close()
    assert list(OutcomeReader(store, "demo").read()) == [full, outcome("b")]


def test_adding_does_not_wait_for_a_storage_that_is_away_and_nothing_is_lost_when_it_returns(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.log.log.FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr("workflows.log.log.MAX_PAUSE_S", 0.001)
    away = Away(store)
    writer = OutcomeWriter(store=away, alias="demo", max_delay_s=0.01)  # type: ignore[arg-type]
    began = time.perf_counter()
    for number in range(100):
        writer.add(outcome(str(number)))
    assert (time.perf_counter() - began) / 100 < 0.005
    wait_until(lambda: away.num_failed > 0)
    away.back = True
    writer.close()
    assert [each.request_id for each in OutcomeReader(store, "demo").read()] == [str(n) for n in range(100)]


def test_entries_are_there_within_about_a_second_without_a_full_batch(store: Store) -> None:
    writer = OutcomeWriter(store=store, alias="demo", max_delay_s=0.05)
    writer.add(outcome("a"))
    wait_until(lambda: bool(list(OutcomeReader(store, "demo").read())))
    writer.close()


def test_batches_stay_below_the_size_of_a_record(store: Store) -> None:
    writer = OutcomeWriter(store=store, alias="demo", max_delay_s=30)
    for number in range(MAX_BATCH):
        writer.add(outcome(str(number), prompt="\u00e9" * 4000, answer="x" * 9000))
    writer.close()
    read = list(OutcomeReader(store, "demo").read())
    assert [each.request_id for each in read] == [str(n) for n in range(MAX_BATCH)]
    assert max(len(each.answer or "") for each in read) == 4000


def test_a_reader_goes_on_where_it_was_and_sees_new_writers(store: Store) -> None:
    first = OutcomeWriter(store=store, alias="demo", max_delay_s=0.01)
    first.add(outcome("a"))
    wait_until(lambda: bool(list(OutcomeReader(store, "demo").read())))
    reader = OutcomeReader(store, "demo")
    assert [each.request_id for each in reader.read()] == ["a"]
    second = OutcomeWriter(store=store, alias="demo")
    second.add(outcome("b"))
    second.close()
    first.add(outcome("c"))
    first.close()
    assert sorted(each.request_id for each in OutcomeReader(store, "demo", dict(reader.cursors)).read()) == ["b", "c"]


def test_skipping_leaves_only_what_comes_later(store: Store) -> None:
    for name in ("a", "b"):
        writer = OutcomeWriter(store=store, alias="demo")
        writer.add(outcome(name))
        writer.close()
    reader = OutcomeReader(store, "demo")
    cursors = reader.skip()
    assert list(OutcomeReader(store, "demo", cursors).read()) == []
    assert {each.request_id for each in reader.recent(5)} == {"a", "b"}


def test_kill_nine_loses_at_most_the_last_second(store: Store, tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from steps.common.outcomes import Outcome, OutcomeWriter
        from workflows.log import open_store
        writer = OutcomeWriter(store=open_store(sys.argv[1]), alias="demo", max_delay_s=0.2)
        for number in range(100_000):
            request = {"request_id": str(number), "session": "s", "at": time.time()}
            writer.add(Outcome(**request, variant="champion", version="1", status=200))
            print(number, time.time(), flush=True)
            time.sleep(0.005)
        """
    )
    root = Path(__file__).resolve().parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    added = [child.stdout.readline().split() for _ in range(300)]
    os.kill(child.pid, signal.SIGKILL)
    added += [line.split() for line in child.stdout.read().splitlines()]
    child.stdout.close()
    child.wait()
    kept = [each.request_id for each in OutcomeReader(store, "demo").read()]
    assert kept == [str(number) for number in range(len(kept))]
    killed_at = float(added[-1][1])
    due = [name for name, at in added if float(at) < killed_at - 1.0]
    assert len(kept) >= len(due)
