"""What has died is started again, later each time it dies; what was stopped, hangs or runs is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from workflows.services.config import WatchSettings, load_config
from workflows.services.errors import NotHealthy
from workflows.services.service import Service, State, Status
from workflows.services.site import Site, open_site
from workflows.services.watch import Watcher

SETTINGS = WatchSettings(interval_s=1, first_wait_s=2, longest_wait_s=10, forgive_s=100, max_log_bytes=64 * 1024)


class Lamp(Service):
    """A service in memory."""

    name = "lamp"
    state: State = "healthy"
    num_starts = 0
    breaks = False

    def up(self) -> Literal["left", "started", "restarted"]:
        self.num_starts += 1
        if self.breaks:
            raise NotHealthy(self.name, "burnt out", "")
        self.state = "healthy"
        return "started"

    def down(self) -> bool:
        self.state = "stopped"
        return True

    def status(self) -> Status:
        return Status(self.name, self.state)

    def has_died(self) -> bool:
        return self.state == "died"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return open_site(load_config(), tmp_path, frozenset())


@pytest.fixture
def lamp(site: Site) -> Lamp:
    return Lamp(site)


def test_what_has_died_is_started_again_at_once_and_told(site: Site, lamp: Lamp) -> None:
    told: list[str] = []
    lamp.state = "died"

    Watcher(SETTINGS, told.append, Clock()).look(site, [lamp])

    assert lamp.status().state == "healthy"
    assert [line.split(" ", 1)[1] for line in told] == ["lamp has died", "lamp started after 0.0 s"]


@pytest.mark.parametrize("state", ["stopped", "healthy", "unhealthy", "starting", "foreign"])
def test_what_has_not_died_is_left_alone(site: Site, lamp: Lamp, state: State) -> None:
    lamp.state = state

    Watcher(SETTINGS, lambda _: None, Clock()).look(site, [lamp])

    assert lamp.num_starts == 0


def test_each_death_doubles_the_wait_up_to_the_longest(site: Site, lamp: Lamp) -> None:
    clock = Clock()
    watcher = Watcher(SETTINGS, lambda _: None, clock)
    waits = []
    for number in range(5):
        lamp.state, died_at = "died", clock.now
        while lamp.num_starts == number:
            watcher.look(site, [lamp])
            clock.now += lamp.num_starts == number
        waits.append(clock.now - died_at)

    assert waits == [0, 2, 4, 8, 10]


def test_a_death_long_after_the_last_is_the_first_again(site: Site, lamp: Lamp) -> None:
    clock = Clock()
    watcher = Watcher(SETTINGS, lambda _: None, clock)
    for _ in range(2):
        lamp.state = "died"
        watcher.look(site, [lamp])
        clock.now += SETTINGS.forgive_s + 1

    assert lamp.num_starts == 2
    lamp.state = "died"
    watcher.look(site, [lamp])
    clock.now += SETTINGS.first_wait_s
    assert watcher.may("lamp")


def test_one_that_does_not_come_up_is_tried_again_after_its_wait(site: Site, lamp: Lamp) -> None:
    clock, told = Clock(), list[str]()
    watcher = Watcher(SETTINGS, told.append, clock)
    lamp.state, lamp.breaks = "died", True

    watcher.look(site, [lamp])
    watcher.look(site, [lamp])
    clock.now += SETTINGS.first_wait_s
    watcher.look(site, [lamp])

    assert lamp.num_starts == 2
    assert "lamp failed after 0.0 s lamp burnt out" in told[1]


def test_one_that_is_stopped_while_the_watch_waits_for_its_turn_stays_stopped(site: Site, lamp: Lamp) -> None:
    looks = iter([True, False])

    class Stopping(Lamp):
        def has_died(self) -> bool:
            return next(looks)

    stopping = Stopping(site)
    Watcher(SETTINGS, lambda _: None, Clock()).look(site, [stopping])

    assert stopping.num_starts == 0


def test_a_log_that_is_full_begins_anew_and_the_one_before_is_kept(site: Site, lamp: Lamp) -> None:
    told: list[str] = []
    lamp.folder.mkdir(parents=True)
    log = lamp.folder / "log"
    with log.open("ab", buffering=0) as held:  # as a running service holds it
        held.write(b"x" * SETTINGS.max_log_bytes)
        Watcher(SETTINGS, told.append).look(site, [lamp])
        assert log.stat().st_size == SETTINGS.max_log_bytes
        held.write(b"y")
        Watcher(SETTINGS, told.append).look(site, [lamp])
        held.write(b"after")
    assert log.read_bytes() == b"after"
    assert (lamp.folder / "log.1").stat().st_size == SETTINGS.max_log_bytes + 1
    assert [line.partition("Z ")[2] for line in told] == ["lamp has filled its log, which begins anew"]
