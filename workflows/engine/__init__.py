"""Durable execution on Ray: graphs of steps whose every result is a record, so that a run goes on wherever it stopped.

A whole program, `program.py`; run it again after killing it, with the run's id, and it goes on:

    from workflows.engine import Engine, step

    @step
    def double(x: int) -> int:
        return 2 * x

    def build(config: dict[str, int]):
        return double.bind(double.bind(config["x"]))

    if __name__ == "__main__":
        engine = Engine("./runs")
        run_id = engine.start(build, {"x": 21})
        print(engine.drive(run_id).status, engine.output(run_id))
"""

from workflows.engine.claims import LIVENESS_TTL_S
from workflows.engine.code import Project
from workflows.engine.context import Checkpoint, Context
from workflows.engine.engine import Engine
from workflows.engine.errors import (
    CodeChanged,
    DuplicateStep,
    EngineError,
    GraphError,
    HeadError,
    InvalidRunId,
    NoOutput,
    NotANode,
    NotImportable,
    NotWaiting,
    RunBusy,
    RunMismatch,
    RunNotFound,
    RunOver,
    StepFailure,
    StepNotFound,
    SubjectMismatch,
)
from workflows.engine.plan import Plan, PlanEntry
from workflows.engine.runner import Pace
from workflows.engine.schedule import Bounds
from workflows.engine.step import Caught, Resources, Retry, Step, Timeouts, step
from workflows.engine.view import Progress, RunSummary, RunView, StepView
from workflows.engine.waits import Approval, Event, Wait, approval, event, sleep

__all__ = [
    # writing graphs
    "step",
    "Step",
    "Retry",
    "Timeouts",
    "Resources",
    "Caught",
    "sleep",
    "event",
    "approval",
    "Event",
    "Approval",
    # inside a step
    "Context",
    "Checkpoint",
    # running them
    "Engine",
    "Bounds",
    "Pace",
    "Project",
    "LIVENESS_TTL_S",
    # seeing them
    "RunView",
    "RunSummary",
    "StepView",
    "StepFailure",
    "Progress",
    "Wait",
    "Plan",
    "PlanEntry",
    # errors
    "EngineError",
    "GraphError",
    "NotANode",
    "NotImportable",
    "DuplicateStep",
    "InvalidRunId",
    "RunNotFound",
    "StepNotFound",
    "NoOutput",
    "RunMismatch",
    "CodeChanged",
    "RunBusy",
    "RunOver",
    "NotWaiting",
    "SubjectMismatch",
    "HeadError",
]
