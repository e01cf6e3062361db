"""The MLflow server: SQLite, artifacts in a folder and served by the server, so that clients need no credentials."""

from __future__ import annotations

import sys

from workflows.services.config import HOST
from workflows.services.service import Daemon, Launch, answers


class Mlflow(Daemon):
    """Tracking and model registry."""

    name = "mlflow"
    port = "mlflow"

    def launch(self) -> Launch:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "mlflow", "server",
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", (self.folder / "artifacts").as_uri(),
            "--host", HOST, "--port", str(self.site.config.ports.mlflow), "--workers", "1",
        ]  # fmt: skip
        # Jobs would start a queue and its workers beside the server; the loop has no use for them.
        environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        return Launch(command, environment)

    def problem(self) -> str:
        return answers(f"{self.site.url('mlflow')}/health")
