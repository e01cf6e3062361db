"""What the policies look at, of runs and aliases: from the config that a run recorded, its cause, and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steps.common.signals import open_signal_log
from triggers.loop_api import RunFacts
from triggers.settings import AliasSettings
from workflows.configs import PipelineConfig
from workflows.engine import Engine, RunNotFound

MAX_ANCESTORS = 16
"""Forks of forks are followed so far back."""


class FactsOfRuns:
    """Facts by run. Record 0 of a run never changes, so each is read once."""

    def __init__(self, engine: Engine, aliases: Mapping[str, AliasSettings]) -> None:
        self._engine = engine
        self._aliases = aliases
        self._known: dict[str, RunFacts] = {}

    def of_config(self, config: PipelineConfig, authors: tuple[str, ...] = ()) -> RunFacts:
        """The facts of a run with that config."""
        return self.of_alias(config.deploy.alias, config.recipe, authors)

    def of_alias(self, alias: str, recipe: str = "", authors: tuple[str, ...] = ()) -> RunFacts:
        """The facts of an alias, of which nothing but the settings is known."""
        settings = self._aliases.get(alias, AliasSettings())
        return RunFacts(recipe=recipe, alias=alias, team=settings.team, protected=settings.protected, authors=authors)

    def of_run(self, run_id: str) -> RunFacts:
        """The facts of a run.

        Raises:
            workflows.engine.RunNotFound: No such run.
        """
        if run_id not in self._known:
            config = self._engine.config(run_id)
            if not isinstance(config, PipelineConfig):
                raise RunNotFound(run_id, self._engine.store.uri)  # a durable program of another kind
            self._known[run_id] = self.of_config(config, self._authors(run_id, config.deploy.alias))
        return self._known[run_id]

    def _authors(self, run_id: str, alias: str) -> tuple[str, ...]:
        """Who started it, and whoever started what it was forked from: their hand is in the shared steps."""
        authors: set[str] = set()
        for _ in range(MAX_ANCESTORS):
            try:
                view = self._engine.view(run_id)
            except RunNotFound:
                break
            authors |= self._who(run_id, alias, view.cause)
            if not view.parent:
                break
            run_id = view.parent
        return tuple(sorted(authors))

    def _who(self, run_id: str, alias: str, cause: Any) -> set[str]:
        evidence = cause.get("evidence") if isinstance(cause, Mapping) else None
        by = evidence.get("by") if isinstance(evidence, Mapping) else None
        if not by:
            admitted = open_signal_log(self._engine.store, alias).refresh().run_of(run_id)
            by = admitted.override_by if admitted else None
        if not by:
            return set()
        # The command line knows the user of the operating system by their bare name.
        return {str(by) if "::" in str(by) else f"Person::{by}"}
