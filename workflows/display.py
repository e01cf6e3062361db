"""Shows a run while it goes on: a live table in a terminal, one line per change elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from workflows.engine import RunView, StepView

MARKS = {
    "succeeded": "[green]+[/]",
    "running": "[blue]>[/]",
    "continuing": "[blue]>[/]",
    "failed": "[red]x[/]",
    "backoff": "[yellow]~[/]",
    "waiting": "[yellow]~[/]",
}
PLAIN_EVERY_S = 10.0
"""Without a terminal a running step is mentioned this often."""


class Display:
    """Follows a run; use it as a context manager and hand it to `Engine.drive` as the observer.

    Args:
        clock: Unix seconds.
        console: Where to write; standard error if not given.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, console: Console | None = None) -> None:
        self._clock = clock
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=False) if self._console.is_terminal else None
        )
        self._shown: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, view: RunView) -> None:
        if self._live:
            self._live.update(table(view, self._clock()), refresh=True)
        else:
            for line in self._lines(view):
                self._console.print(line, highlight=False, markup=False)
                sys.stderr.flush()

    def _lines(self, view: RunView) -> list[str]:
        now, lines = self._clock(), []
        for step in view.steps:
            status, at = self._shown.get(step.name, ("pending", now))
            told = step.status == status and (status != "running" or now - at < PLAIN_EVERY_S)
            if told or step.status in ("blocked", "ready"):
                continue
            self._shown[step.name] = (step.status, now)
            lines.append(f"{_clock_time(now)} {step.name:<12} {step.status:<10} {_note(step, now)}".rstrip())
        return lines


def table(view: RunView, now: float) -> Table:
    """Draws the state of every step: mark, name, progress, time taken, time left, what it says."""
    grid = Table(title=f"run {view.run_id}: {view.status}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "step", "progress", "time", "left", ""):
        grid.add_column(column)
    for step in view.steps:
        share = _share(step)
        bar = "" if share is None else ProgressBar(total=1.0, completed=share, width=20)
        taken, left = _duration(_seconds(step, now)), _duration(remaining_s(step, now))
        grid.add_row(MARKS.get(step.status, ""), step.name, bar, taken, left, _message(step))
    return grid


def remaining_s(step: StepView, now: float) -> float | None:
    """Estimates the seconds left of a running step from its progress so far, or None where nothing can be said."""
    taken, share = _seconds(step, now), _share(step)
    if taken is None or not share:
        return None
    return taken * (1 - share) / share


def _share(step: StepView) -> float | None:
    """The part of a running step that is done, 0 to 1, or None where it does not say."""
    if step.status != "running" or step.progress is None or step.progress.total <= 0:
        return None
    return min(max(step.progress.done / step.progress.total, 0.0), 1.0)


def _seconds(step: StepView, now: float) -> float | None:
    if step.started_at is None:
        return None
    return max((step.finished_at or now) - step.started_at, 0.0)


def _message(step: StepView) -> str:
    if step.error:
        return step.error.message.splitlines()[0][:100] if step.error.message else step.error.type
    if step.progress is None or step.status != "running":
        return f"attempt {step.attempts}" if step.attempts > 1 else ""
    numbers = " ".join(f"{name} {value:.4g}" for name, value in step.progress.metrics.items())
    return f"{step.progress.message} {numbers}".strip()


def _note(step: StepView, now: float) -> str:
    share, left = _share(step), remaining_s(step, now)
    parts = [
        _duration(_seconds(step, now)),
        "" if share is None else f"{share:.0%}",
        "" if left is None else f"{_duration(left)} left",
        _message(step),
    ]
    return "  ".join(part for part in parts if part)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _clock_time(now: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(now))
