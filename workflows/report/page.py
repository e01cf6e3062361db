"""Puts the sections of a report on one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workflows.engine import RunView, StepView
from workflows.report import charts, sections
from workflows.report.sections import Section

TEMPLATE = Path(__file__).with_name("template.html.j2")


def render(
    view: RunView,
    recipe: str,
    results: Mapping[str, Any],
    *,
    loss_curve: Sequence[Mapping[str, float]] = (),
    looks: Sequence[Mapping[str, float]] = (),
    log10_limit: float = 0.0,
) -> str:
    """Gives the page as HTML.

    Args:
        view: The run.
        recipe: Name of the recipe.
        results: Result of each finished step, by the step's name; those that are missing have no section.
        loss_curve: `{step, loss, ...}` of the training.
        looks: `{look, weight, log10_evidence}` of the rollout.
        log10_limit: Evidence at which a canary is rolled back.
    """
    from jinja2 import Environment, StrictUndefined

    parts: list[Section] = []
    drawers: dict[str, Callable[[Any], Section]] = {
        "scrape": sections.crawl,
        "validate": sections.cleaning,
        "version": sections.dataset,
        "tune": sections.tuning,
        "train": lambda result: sections.training(result, loss_curve),
        "evaluate": sections.evaluation,
        "deploy": lambda result: sections.release(result, looks, log10_limit),
        "monitor": sections.monitoring,
    }
    for name, draw in drawers.items():
        if results.get(name) is not None:
            parts.append(draw(results[name]))
    began = min((step.started_at for step in view.steps if step.started_at is not None), default=0.0)
    ended = max((step.finished_at for step in view.steps if step.finished_at is not None), default=began)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        run_id=view.run_id,
        recipe=recipe,
        status=view.status,
        started=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began)),
        seconds=ended - began,
        timeline=charts.timeline([_bar(step, began) for step in view.steps if step.started_at is not None]),
        steps=[_row(step) for step in view.steps],
        sections=parts,
    )


def _bar(step: StepView, began: float) -> tuple[str, str, float, float]:
    start = (step.started_at or began) - began
    return step.name, step.status, start, (step.finished_at - began if step.finished_at is not None else start)


def _row(step: StepView) -> dict[str, Any]:
    took = "" if step.started_at is None or step.finished_at is None else f"{step.finished_at - step.started_at:.1f}"
    note = step.error.message.splitlines()[0] if step.error else ""
    return {"name": step.name, "status": step.status, "attempts": step.attempts, "seconds": took, "note": note}
