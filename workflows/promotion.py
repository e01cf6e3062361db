"""Whether a run may release what it made: the action `promote`, asked by the process that drives the run, before the
step that opens the rollout.

Asked in a team only (`EVERLOOP_PRINCIPALS`): without one no alias is protected. The answer stands in the audit log with
whose hand the challenger bears and who approved it; who approved stands in the release log too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from workflows.command_line import POLICIES, PRINCIPALS
from workflows.engine import Approval, Engine, EngineError, NoOutput, StepNotFound
from workflows.pipeline import APPROVAL
from workflows.run_facts import authors

if TYPE_CHECKING:
    from workflows.access import Directory

RELEASING = "deploy"
"""The step that opens the rollout."""


class NotPromotable(EngineError):
    """The run must not release what it made. A fork of it that asks for an approval may."""

    def __init__(self, run_id: str, alias: str, why: str) -> None:
        super().__init__(run_id, alias, why)

    def __str__(self) -> str:
        run_id, alias, why = self.args
        asking = f"--fork {run_id} --from {RELEASING} --set approval.required=true"
        return f"run {run_id} may not release its model as {alias!r}: {why}; have somebody else approve it: {asking}"


class PromotionGate:
    """Asks for a run when its step `deploy` is about to begin.

    Args:
        storage: Storage URI.
        principals: The team's directory.
    """

    def __init__(self, storage: str, principals: Path) -> None:
        self._storage, self._principals = storage, principals

    def check(self, run_id: str) -> None:
        """Returns if the run may release, or has nothing to release.

        Raises:
            NotPromotable: The policies do not permit it, or the answer could not be written down.
        """
        from workflows.access import TEAM_POLICIES, AccessError, Authorizer, Principal, resources
        from workflows.step_credentials import audit_log

        config = self._engine.config(run_id)
        alias, agreed = config.deploy.alias, self._agreed(run_id)
        evaluation = self._engine.output(run_id, "evaluate")
        if (agreed and not agreed.approved) or (evaluation.verdict != "promote" and not config.deploy.force):
            return
        rule = self._directory.alias(alias)
        runner = Principal(kind="Service", id="runner", roles=("runner",), team=rule.team)
        context = resources.promotion(
            authors(self._engine, run_id, alias),
            [agreed.by if "::" in agreed.by else f"Person::{agreed.by}"] if agreed else [],
            agreed.subject if agreed else "",
        )
        release = resources.release(alias, team=rule.team, protected=rule.protected)
        folders = [Path(folder) for folder in os.environ.get(POLICIES, "").split(os.pathsep) if folder]
        try:
            with audit_log(self._storage, self._engine.store, "runner") as audit:
                decision = Authorizer(audit, tuple(folders) or (TEAM_POLICIES,)).decide(
                    runner, "promote", release, context
                )
        except AccessError as error:
            raise NotPromotable(run_id, alias, str(error)) from error
        if not decision.allowed:
            told = ", ".join(decision.policies)
            raise NotPromotable(run_id, alias, f"policy {told} forbids it" if told else "no policy permits it")

    def _agreed(self, run_id: str) -> Approval | None:
        try:
            found = self._engine.output(run_id, APPROVAL)
        except (StepNotFound, NoOutput):
            return None
        assert isinstance(found, Approval), f"the step {APPROVAL} gives an approval"
        return found

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self._storage)

    @property
    def _directory(self) -> Directory:
        from workflows.access import load_directory

        return load_directory(self._principals)


def team_gate(storage: str, environment: Mapping[str, str]) -> PromotionGate | None:
    """The gate of a team; None on one machine."""
    path = environment.get(PRINCIPALS)
    return PromotionGate(storage, Path(path)) if path else None
