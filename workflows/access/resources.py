"""What is asked about, as Cedar entities. The attributes are those of `policies/everloop.cedarschema`.

One function a kind; each gives a `Resource`. An attribute that is missing or of a wrong type is found by Cedar against
the schema, and the answer is then "no".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from workflows.access.principals import CLEARANCES


@dataclass(frozen=True, slots=True)
class Resource:
    """What is asked about.

    Attributes:
        kind: Entity type in the schema.
        id: Its name.
        attributes: As the schema declares them.
    """

    kind: str
    id: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def uid(self) -> dict[str, str]:
        """The name as Cedar takes it: a dictionary, never formatted text."""
        return {"type": self.kind, "id": self.id}

    @property
    def subject(self) -> str:
        """The name as text, for people and for the audit log."""
        return f"{self.kind}::{self.id}"

    def entity(self) -> dict[str, Any]:
        """The resource with its attributes, as Cedar takes it."""
        return {"uid": self.uid, "attrs": self.attributes, "parents": []}


def run(run_id: str, *, team: str, authors: Iterable[str], recipe: str = "", alias: str = "") -> Resource:
    """A run. `authors` are subjects: who started it, who wrote its configuration or code."""
    return Resource("Run", run_id, {"recipe": recipe, "alias": alias, "team": team, "authors": sorted(set(authors))})


def approval(run_id: str, gate: str, *, digest: str, team: str, protected: bool, authors: Iterable[str]) -> Resource:
    """A gate of a run that waits for a decision about the artifact of that digest."""
    return Resource(
        "Approval",
        f"{run_id}/{gate}",
        {
            "run": run_id,
            "gate": gate,
            "digest": digest,
            "team": team,
            "protected": protected,
            "authors": sorted(set(authors)),
        },
    )


def release(alias: str, *, team: str, protected: bool) -> Resource:
    """The alias under which a model is served. A protected one is promoted with four eyes."""
    return Resource("Release", alias, {"team": team, "protected": protected})


def promotion(authors: Iterable[str], approved_by: Iterable[str], digest: str) -> dict[str, Any]:
    """The context of the action `promote`: whose hand the challenger bears, and who approved exactly this artifact."""
    return {"authors": sorted(set(authors)), "approved_by": sorted(set(approved_by)), "digest": digest}


def model(name: str, *, stage: str, team: str, sensitivity: str) -> Resource:
    """A model version. It is as sensitive as the data it was trained on."""
    return Resource("Model", name, {"stage": stage, "team": team, "sensitivity": _level(sensitivity)})


def dataset(name: str, *, version: int, sensitivity: str, owner: str, team: str) -> Resource:
    """A dataset version; `owner` is a subject."""
    attributes = {"dataset": name, "sensitivity": _level(sensitivity), "owner": owner, "team": team}
    return Resource("DatasetVersion", f"{name}@v{version}", attributes)


def endpoint(alias: str, *, team: str, sensitivity: str) -> Resource:
    """The HTTP endpoint of an alias."""
    return Resource("Endpoint", alias, {"team": team, "sensitivity": _level(sensitivity)})


def area(name: str, *, run_id: str | None = None) -> Resource:
    """A part of the storage by the first word of its keys; below `runs/`, that of one run."""
    if run_id is None:
        return Resource("Area", name, {"name": name})
    return Resource("Area", f"{name}/{run_id}", {"name": name, "run": run_id})


INSTALLATION = Resource("Installation", "everloop")


def _level(sensitivity: str) -> int:
    """A sensitivity nobody has heard of is one that nobody is cleared for."""
    return CLEARANCES.get(sensitivity, max(CLEARANCES.values()) + 1)
