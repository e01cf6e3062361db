"""MLflow, asked before it is told: no attempt at a step makes a second run, logged model or registered version.

Every entity carries the step's token as a tag, written in the same transaction as the entity. A re-run searches for the
token first, so a kill between any two calls loses nothing and repeats nothing. Should two attempts race all the same,
all of them use the older entity.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

logger = logging.getLogger(__name__)

STEP_TOKEN = "everloop.step_token"  # noqa: S105 - the name of a tag
TREE_DIGEST = "everloop.tree_sha256"
LOGGED_MODEL = "everloop.logged_model"

_MAX_BATCH = 1000
"""Metrics that the MLflow REST API takes in one call."""


@dataclass(frozen=True, slots=True)
class TrackingServer:
    """Where runs are tracked.

    Attributes:
        uri: Tracking URI; the registry is the same.
        artifacts: Where a new experiment keeps its files, or None where the server decides.
        reason: Where the URI comes from, for the log.
    """

    uri: str
    artifacts: str | None
    reason: str


def tracking_server(configured: str, storage_uri: str, environ: Mapping[str, str] = os.environ) -> TrackingServer:
    """Resolves the tracking server: the setting, else `MLFLOW_TRACKING_URI`, else a file of SQLite.

    The file lies inside a storage that is a folder; otherwise in the user's state folder, one for each storage.
    """
    if configured:
        return TrackingServer(configured, None, "the setting tracking_uri")
    if environ.get("MLFLOW_TRACKING_URI"):
        return TrackingServer(environ["MLFLOW_TRACKING_URI"], None, "MLFLOW_TRACKING_URI")
    parts = urlsplit(storage_uri)
    if parts.scheme == "file":
        folder, reason = Path(unquote(parts.path)) / "mlflow", "the storage, a folder"
    else:
        state = Path(environ.get("EVERLOOP_STATE") or Path(environ.get("HOME", "/tmp")) / ".local/state/everloop")  # noqa: S108
        folder = state / "mlflow" / hashlib.sha256(storage_uri.encode()).hexdigest()[:16]
        reason = "the state folder; the storage is no folder"
    return TrackingServer(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri(), reason)


@dataclass(frozen=True, slots=True)
class Point:
    """Metrics at a step of training.

    Attributes:
        step: Optimizer steps taken.
        at: Unix seconds; part of a metric's identity, so a point that is logged again is the same point.
        values: Metrics by name.
    """

    step: int
    at: float
    values: Mapping[str, float]


class Tracking:
    """A tracking server and its registry.

    Args:
        server: Where it is. Opening a new SQLite file takes about two seconds.
    """

    def __init__(self, server: TrackingServer) -> None:
        # The project sends nothing to anyone; MLflow reads this when it is imported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        if server.uri.startswith("sqlite:///"):
            Path(server.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._server = server
        self._client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)

    def open_run(self, experiment: str, token: str, *, name: str, tags: Mapping[str, str]) -> str:
        """Finds the run of a step, or makes it.

        Returns:
            Its MLflow run id.
        """
        experiment_id = self._experiment(experiment)
        found = self._runs(experiment_id, token)
        if not found:
            self._client.create_run(experiment_id, run_name=name, tags={**tags, STEP_TOKEN: token})
            found = self._runs(experiment_id, token)
        return str(found[0].info.run_id)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Writes parameters; the same values may be written again."""
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in sorted(params.items())])

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Writes metrics; a point that is there already stays the only one."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(point.at * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), _MAX_BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _MAX_BATCH])

    def finish(self, run_id: str) -> None:
        """Marks a run as finished."""
        self._client.set_terminated(run_id, "FINISHED")

    def register(
        self, model_name: str, run_id: str, token: str, *, digest: str, tags: Mapping[str, str], description: str
    ) -> str:
        """Finds the registered version of a step, or makes it: a logged model without files, and a version of it.

        The weights stay in the project's own storage; the tag `everloop.tree_sha256` names them.

        Args:
            model_name: Name in the registry.
            run_id: The MLflow run that made the model.
            token: Token of the step.
            digest: SHA-256 of the model's tree.
            tags: Lineage.
            description: A sentence for people.

        Returns:
            The version, as text.
        """
        from mlflow.exceptions import MlflowException

        tags = {**tags, STEP_TOKEN: token, TREE_DIGEST: digest}
        model = self._logged_model(model_name, run_id, token, tags)
        found = self._versions(model_name, token)
        if not found:
            try:
                self._client.create_registered_model(model_name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            self._client.create_model_version(
                model_name,
                # Not `models:/<id>`: the SQL registry would look that up in the process-wide tracking server.
                source=model.artifact_location,
                run_id=run_id,
                model_id=model.model_id,
                # The SQL registry does not keep `model_id`.
                tags={**tags, LOGGED_MODEL: model.model_id},
                description=description,
            )
            found = self._versions(model_name, token)
        return str(min(int(version.version) for version in found))

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._server.artifacts))
            except MlflowException as error:
                found = self._client.get_experiment_by_name(name)
                if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                    raise
        return str(found.experiment_id)

    def _runs(self, experiment_id: str, token: str) -> list[Any]:
        return list(
            self._client.search_runs(
                [experiment_id], f"tags.`{STEP_TOKEN}` = '{token}'", order_by=["attributes.start_time ASC"]
            )
        )

    def _versions(self, model_name: str, token: str) -> list[Any]:
        # The registry searches tags only together with the name, and an unknown name gives no rows.
        return list(self._client.search_model_versions(f"name = '{model_name}' and tags.`{STEP_TOKEN}` = '{token}'"))

    def _logged_model(self, name: str, run_id: str, token: str, tags: Mapping[str, str]) -> Any:
        experiment_id = self._client.get_run(run_id).info.experiment_id
        order: list[dict[str, Any]] = [{"field_name": "creation_timestamp", "ascending": True}]
        search = f"tags.`{STEP_TOKEN}` = '{token}'"
        found = self._client.search_logged_models([experiment_id], search, order_by=order)
        if not found:
            external = {**tags, "mlflow.model.isExternal": "true"}
            self._client.create_logged_model(
                experiment_id, name=name, source_run_id=run_id, tags=external, model_type="llm"
            )
            found = self._client.search_logged_models([experiment_id], search, order_by=order)
        model = found[0]
        if str(model.status) != "READY":
            self._describe(model)
            model = self._client.finalize_logged_model(model.model_id, "READY")
        return model

    def _describe(self, model: Any) -> None:
        """Uploads the `MLmodel` file that the registry expects; it says that the weights are elsewhere."""
        from mlflow.models import Model

        with tempfile.TemporaryDirectory(prefix="everloop-mlflow-") as folder:
            Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                model_id=model.model_id,
                run_id=model.source_run_id,
                metadata={"mlflow.model.isExternal": True},
            ).save(str(Path(folder) / "MLmodel"))
            self._client.log_model_artifacts(model.model_id, folder)
