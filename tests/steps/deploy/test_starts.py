from __future__ import annotations

from pathlib import Path

from steps.deploy.starts import forget_starts, num_deaths, record_start
from workflows.log import open_store


def test_all_starts_but_the_first_are_deaths_and_a_new_session_begins_anew(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert num_deaths(store, "app", 1) == 0
    record_start(store, "app", session="one", replica="a")
    record_start(store, "app", session="two", replica="b")
    record_start(store, "app-2", session="one", replica="x")
    assert num_deaths(store, "app", 1) == 0
    for replica in "cd":
        record_start(store, "app", session="two", replica=replica)
    assert num_deaths(store, "app", 1) == 2
    assert num_deaths(store, "app", 2) == 1
    forget_starts(store, "app")
    assert num_deaths(store, "app", 1) == 0
    assert num_deaths(store, "app-2", 1) == 0
