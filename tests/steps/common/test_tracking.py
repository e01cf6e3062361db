from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steps.common.tracking import (
    LOGGED_MODEL,
    STEP_TOKEN,
    TREE_DIGEST,
    Point,
    Tracking,
    TrackingServer,
    tracking_server,
)

# MLflow 3.17 uses an option that SQLAlchemy 2.1 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

CALLS = (
    "create_experiment",
    "create_run",
    "log_batch",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_registered_model",
    "create_model_version",
    "set_terminated",
)
"""Everything that writes, in the order of a registration."""


class KilledError(Exception):
    """Stands for kill -9: nothing after it happens."""


class DyingClient:
    """Passes calls on to a real client, and dies before or after one of them."""

    def __init__(self, client: Any, name: str, *, after: bool) -> None:
        self._client = client
        self._name = name
        self._after = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name != self._name:
            return method

        def die(*args: Any, **kwargs: Any) -> None:
            if self._after:
                method(*args, **kwargs)
            raise KilledError(name)

        return die


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> TrackingServer:
    return tracking_server("", f"file://{tmp_path_factory.mktemp('tracking')}", {})


@pytest.fixture(scope="module")
def tracking(server: TrackingServer) -> Tracking:
    return Tracking(server)


def track(tracking: Tracking, name: str, token: str) -> tuple[str, str]:
    run_id = tracking.open_run(f"experiment-{name}", token, name="a run", tags={"everloop.dataset": "words@v1"})
    tracking.log_params(run_id, {"lr": 0.1})
    tracking.log_points(run_id, [Point(step, 1000.0 + step, {"loss": 1.0 / step}) for step in (1, 2, 3)])
    version = tracking.register(
        f"model-{name}", run_id, token, digest="d" * 64, tags={"everloop.dataset": "words@v1"}, description="A model."
    )
    tracking.finish(run_id)
    return run_id, version


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_any_call_repeats_nothing(tracking: Tracking, server: TrackingServer, call: str, after: bool) -> None:
    name, token = f"{call}-{after}", f"{CALLS.index(call):031}{int(after)}"
    dying = Tracking(server)
    client: Any = tracking._client
    dying._client = DyingClient(client, call, after=after)
    with pytest.raises(KilledError):
        track(dying, name, token)
    run_id, version = track(tracking, name, token)
    assert track(tracking, name, token) == (run_id, version) == (run_id, "1")
    experiment = client.get_experiment_by_name(f"experiment-{name}").experiment_id
    [run] = client.search_runs([experiment])
    assert (run.info.run_id, run.info.status, run.data.params) == (run_id, "FINISHED", {"lr": "0.1"})
    assert [metric.value for metric in client.get_metric_history(run_id, "loss")] == [1.0, 0.5, pytest.approx(1 / 3)]
    [model] = client.search_logged_models([experiment])
    assert (str(model.status), model.source_run_id) == ("READY", run_id)
    [registered] = client.search_model_versions(f"name = 'model-{name}'")
    assert registered.run_id == run_id
    lineage = {"everloop.dataset": "words@v1", STEP_TOKEN: token, TREE_DIGEST: "d" * 64, LOGGED_MODEL: model.model_id}
    assert registered.tags == lineage


def test_another_step_makes_another_version(tracking: Tracking) -> None:
    first, second = track(tracking, "two", "a" * 32), track(tracking, "two", "b" * 32)
    assert first[0] != second[0]
    assert (first[1], second[1]) == ("1", "2")


def test_attempts_that_raced_agree_on_the_older_run(tracking: Tracking) -> None:
    client: Any = tracking._client
    run_id = tracking.open_run("raced", "c" * 32, name="first", tags={})
    client.create_run(client.get_run(run_id).info.experiment_id, tags={STEP_TOKEN: "c" * 32})
    assert tracking.open_run("raced", "c" * 32, name="second", tags={}) == run_id


@pytest.mark.parametrize(
    ("configured", "storage", "environ", "uri"),
    [
        ("http://a", "file:///s", {"MLFLOW_TRACKING_URI": "http://b"}, "http://a"),
        ("", "file:///s", {"MLFLOW_TRACKING_URI": "http://b"}, "http://b"),
        ("", "file:///s%20t", {}, "sqlite:////s t/mlflow/mlflow.db"),
    ],
)
def test_the_server_is_the_nearest_setting(configured: str, storage: str, environ: dict[str, str], uri: str) -> None:
    assert tracking_server(configured, storage, environ).uri == uri


def test_storages_that_are_no_folders_do_not_share_a_file(tmp_path: Path) -> None:
    environ = {"EVERLOOP_STATE": str(tmp_path)}
    uris = {tracking_server("", f"s3://bucket/{name}", environ).uri for name in ("a", "b")}
    assert len(uris) == 2
    assert all(uri.startswith(f"sqlite:///{tmp_path}/mlflow/") for uri in uris)
