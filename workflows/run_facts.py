"""What the policies look at when a command changes a run: its alias, whose that is, and whose hand the run bears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steps.common.signals import open_signal_log
from workflows.configs import PipelineConfig
from workflows.engine import Engine, RunNotFound
from workflows.log import LogError

if TYPE_CHECKING:
    from workflows.access import Principals, Resource

MAX_ANCESTORS = 16
"""Forks of forks are followed so far back."""


def new_run(config: PipelineConfig, directory: Principals, run_id: str | None, author: str) -> Resource:
    """A run that is not there yet."""
    from workflows.access import resources

    alias = config.deploy.alias
    team = directory.alias(alias).team
    return resources.run(run_id or "new", team=team, authors=[author], recipe=config.recipe, alias=alias)


def known_run(engine: Engine, directory: Principals, run_id: str) -> Resource:
    """A run of the storage. One whose beginning cannot be read belongs to no team: its owner or an admin decides.

    Raises:
        RunNotFound: There is none.
    """
    from workflows.access import resources

    config = _config(engine, run_id)
    if config is None:
        return resources.run(run_id, team="", authors=[])
    alias = config.deploy.alias
    return resources.run(
        run_id,
        team=directory.alias(alias).team,
        authors=authors(engine, run_id, alias),
        recipe=config.recipe,
        alias=alias,
    )


def gate(engine: Engine, directory: Principals, run_id: str, name: str) -> Resource:
    """An approval that a run waits for.

    Raises:
        RunNotFound: There is no such run.
    """
    from workflows.access import resources

    config = _config(engine, run_id)
    alias = config.deploy.alias if config else ""
    rule = directory.alias(alias)
    waits = {wait.name: wait for wait in engine.view(run_id).waits}
    digest = str(getattr(waits.get(name), "subject", "") or "")
    return resources.approval(
        run_id,
        name,
        digest=digest,
        team=rule.team,
        protected=rule.protected,
        authors=authors(engine, run_id, alias) if alias else (),
    )


def authors(engine: Engine, run_id: str, alias: str) -> tuple[str, ...]:
    """Subjects of who started the run, and of whoever started what it was forked from: their hand is in the shared
    steps.
    """
    found: set[str] = set()
    for _ in range(MAX_ANCESTORS):
        try:
            begun = engine.beginning(run_id)
        except (RunNotFound, LogError):
            break
        found |= _started_by(engine, run_id, alias, begun.cause)
        if not begun.parent:
            break
        run_id = begun.parent
    return tuple(sorted(found))


def _started_by(engine: Engine, run_id: str, alias: str, cause: Any) -> set[str]:
    evidence = cause.get("evidence") if isinstance(cause, Mapping) else None
    by = evidence.get("by") if isinstance(evidence, Mapping) else None
    if not by:
        admitted = open_signal_log(engine.store, alias).refresh().run_of(run_id)
        by = admitted.override_by if admitted else None
    if not by:
        return set()
    # Runs of before the command line knew principals name the user of the operating system.
    return {str(by) if "::" in str(by) else f"Person::{by}"}


def _config(engine: Engine, run_id: str) -> PipelineConfig | None:
    try:
        config = engine.config(run_id)
    except RunNotFound:
        raise
    except LogError:
        return None
    return config if isinstance(config, PipelineConfig) else None
