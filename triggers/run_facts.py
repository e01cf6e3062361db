"""What the policies look at, of runs and aliases: from the config that a run recorded, its cause, and the directory."""

from __future__ import annotations

from triggers.loop_api import RunFacts
from workflows.access import Principals
from workflows.configs import PipelineConfig
from workflows.engine import Engine, RunNotFound
from workflows.run_facts import authors


class FactsOfRuns:
    """Facts by run. Record 0 of a run never changes, so each is read once; whose an alias is may change."""

    def __init__(self, engine: Engine, directory: Principals) -> None:
        self._engine = engine
        self._directory = directory
        self._known: dict[str, tuple[str, str, tuple[str, ...]]] = {}

    def of_config(self, config: PipelineConfig, run_authors: tuple[str, ...] = ()) -> RunFacts:
        """The facts of a run with that config."""
        return self.of_alias(config.deploy.alias, config.recipe, run_authors)

    def of_alias(self, alias: str, recipe: str = "", run_authors: tuple[str, ...] = ()) -> RunFacts:
        """The facts of an alias, of which nothing but the directory tells."""
        rule = self._directory.alias(alias)
        return RunFacts(recipe=recipe, alias=alias, team=rule.team, protected=rule.protected, authors=run_authors)

    def of_run(self, run_id: str) -> RunFacts:
        """The facts of a run.

        Raises:
            workflows.engine.RunNotFound: No such run, or one of another program.
        """
        if run_id not in self._known:
            config = self._engine.config(run_id)
            if not isinstance(config, PipelineConfig):
                raise RunNotFound(run_id, self._engine.store.uri)
            alias = config.deploy.alias
            self._known[run_id] = alias, config.recipe, authors(self._engine, run_id, alias)
        return self.of_alias(*self._known[run_id])
