"""Makes Ray Serve look as the release log says: an application for each model version, and one router.

Idempotent, cheap when there is nothing to do, and safe to call from anywhere that is connected to Ray: at the start
of a run, by `python -m workflows.serve`, by the reconciler. Running applications are never deployed again, because
that would restart their replicas; weights do not come by here at all, the router reads them from the log.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steps.common.releases import ReleasedModel, ReleaseState, open_release_log
from steps.deploy.config import ServingConfig
from steps.deploy.errors import EndpointNotReadyError
from steps.deploy.naming import application_name, application_prefix, router_name, storage_hash
from workflows.log import NotFound, Store, open_store

logger = logging.getLogger(__name__)

ENDPOINT_KEY = "serving/endpoint.json"
ENDPOINT_ENV = "EVERLOOP_ENDPOINT"
"""URL by which every node reaches the endpoint, `http://host:port`. Set in a cluster, where loopback reaches one node
only; the endpoint then listens on all addresses of the head, on that port."""

POLL_S = 0.1
GONE = ("NOT_STARTED", "DELETING")
BROKEN = ("DEPLOY_FAILED", "UNHEALTHY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A converged endpoint.

    Attributes:
        url: Root URL; `/v1/...` below it.
        champion: Version that answers, or None before the first release.
        challenger: Version under rollout, or None.
        started: Applications that were started.
        removed: Applications that were removed.
        draining: Applications that go as soon as their open answers have ended.
        seconds: Wall time.
    """

    url: str
    champion: str | None
    challenger: str | None
    started: tuple[str, ...]
    removed: tuple[str, ...]
    draining: tuple[str, ...]
    seconds: float


def converge(storage: str, alias: str, *, on_wait: Callable[[str], None] | None = None) -> Endpoint:
    """Starts what the release log wants and does not run, removes what it does not want, and waits until it answers.

    Ray must be connected.

    Args:
        storage: URI of the storage, or a plain path.
        alias: The public model name.
        on_wait: Told, while it waits, what it waits for.

    Raises:
        EndpointNotReadyError: The router or the champion did not come up. A challenger that does not is the rollout's
            matter.
    """
    began = time.monotonic()
    store = open_store(storage)
    # Names carry a hash of the storage: a plain path and its URI must give the same one.
    storage = store.uri
    state = open_release_log(store, alias).refresh()
    serving = ServingConfig(**state.serving)
    wanted = {application_name(storage, alias, model.version): model for model in state.wanted()}
    with _alone(storage):
        url, prefix = _ensure_serve(store, storage, serving)
        started = _start_missing(storage, state, serving, wanted, prefix)
        needed = [router_name(storage)]
        if state.champion is not None:
            needed.append(application_name(storage, alias, state.champion.version))
        _wait_running(needed, serving.ready_s, on_wait)
        removed, draining = _remove_unwanted(storage, alias, wanted)
    return Endpoint(
        url=url,
        champion=state.champion.version if state.champion else None,
        challenger=state.challenger.version if state.challenger else None,
        started=started,
        removed=removed,
        draining=draining,
        seconds=time.monotonic() - began,
    )


def recorded_endpoint(store: Store) -> str | None:
    """Gives the URL that the endpoint of a storage has, or had when its head was lost; None if there never was one."""
    record = _endpoint_record(store)
    return record["url"] if record else None


def follow_now(storage: str, alias: str) -> Mapping[str, int]:
    """Makes the router read the release log now, and gives its open answers by version."""
    from ray import serve

    counts: Mapping[str, int] = serve.get_app_handle(router_name(storage)).follow.remote(alias).result(timeout_s=60)
    return counts


def _ensure_serve(store: Store, storage: str, serving: ServingConfig) -> tuple[str, str]:
    """Starts Serve if it does not run. Returns the root URL and the route prefix of this storage's router."""
    from ray import serve
    from ray.serve.context import _get_global_client

    # Serve has no public way to ask whether it runs, and on which port.
    client = _get_global_client(raise_if_no_controller_running=False)
    record = _endpoint_record(store)
    outside = urlsplit(os.environ.get(ENDPOINT_ENV, ""))
    listen = "0.0.0.0" if outside.hostname else serving.host  # noqa: S104 - in a cluster the Service needs it
    if client is None:
        port = outside.port or serving.port or _usable_port(listen, record["port"] if record else None)
        options = {"host": listen, "port": port}
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config={"enable_access_log": False})
        applications: Mapping[str, Any] = {}
    else:
        port = int(client.http_config.port)
        applications = client.get_serve_details()["applications"]
    prefix = _route_prefix(storage, applications, urlsplit(record["url"]).path if record else "")
    host = outside.hostname or ("127.0.0.1" if listen in {"0.0.0.0", "::"} else listen)  # noqa: S104 - compared
    url = f"http://{host}:{port}{prefix.rstrip('/')}"
    found = {"url": url, "port": port}
    if record != found:
        store.put(ENDPOINT_KEY, json.dumps(found).encode())
    return url, prefix


def _route_prefix(storage: str, applications: Mapping[str, Mapping[str, Any]], recorded: str) -> str:
    """The one it has or had, so that the URL outlives the head; else `/`, unless another storage's router has it."""
    routes = {name: application["route_prefix"] for name, application in applications.items()}
    free = "/" not in routes.values()
    return str(routes.get(router_name(storage)) or recorded or ("/" if free else f"/{storage_hash(storage)}"))


def _start_missing(
    storage: str, state: ReleaseState, serving: ServingConfig, wanted: Mapping[str, ReleasedModel], prefix: str
) -> tuple[str, ...]:
    from ray import serve

    running = serve.status().applications
    champion = state.champion.version if state.champion else None
    targets = []
    for name, model in wanted.items():
        status = running[name].status if name in running else "NOT_STARTED"
        # A broken champion is started again; a broken challenger is evidence, and stays for the rollout to see.
        if status in GONE or (status == "DEPLOY_FAILED" and model.version == champion):
            targets.append(serve.RunTarget(_model_application(storage, name, model, serving), name, route_prefix=None))
    router = router_name(storage)
    if router not in running or running[router].status in (*GONE, "DEPLOY_FAILED"):
        targets.append(serve.RunTarget(_router_application(storage, serving), router, prefix))
    if targets:
        logger.info("starting %s", ", ".join(target.name for target in targets))
        serve.run_many(targets, wait_for_applications_running=False)
    return tuple(target.name for target in targets)


def _model_application(storage: str, name: str, model: ReleasedModel, serving: ServingConfig) -> Any:
    if serving.engine == "vllm":
        from steps.deploy.engine_vllm import vllm_application

        return vllm_application(storage, name, model, serving, _environ())
    from ray import serve

    from steps.deploy.replica import TransformersReplica

    deployment = serve.deployment(
        TransformersReplica,
        name="model",
        num_replicas=serving.num_replicas,
        ray_actor_options=_actor(serving.replica_cpus),
        # The batch is the queue: the replica takes all that the router lets in.
        max_ongoing_requests=serving.max_in_flight,
        **_lifecycle(serving),
    )
    return deployment.bind(storage, name, model, serving)


def _router_application(storage: str, serving: ServingConfig) -> Any:
    from ray import serve

    from steps.deploy.router import Router

    deployment = serve.deployment(
        serve.ingress()(Router),
        name="router",
        ray_actor_options=_actor(serving.router_cpus),
        # The router refuses by itself, with 429 and Retry-After; Serve would only queue.
        max_ongoing_requests=max(1000, 4 * serving.max_in_flight),
        **_lifecycle(serving),
    )
    return deployment.bind(storage)


def _lifecycle(serving: ServingConfig) -> Mapping[str, Any]:
    return {
        "graceful_shutdown_timeout_s": serving.drain_s,
        "graceful_shutdown_wait_loop_s": 0.2,
        # A storage that was away for a moment gets a second chance; a model that cannot be loaded gets no third.
        "max_constructor_retry_count": 2,
        # A dead replica is noticed within a second; a busy one has half a minute to say that it lives.
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 30.0,
    }


def _actor(num_cpus: float) -> Mapping[str, Any]:
    return {"num_cpus": num_cpus, "runtime_env": {"env_vars": _environ()}}


def _environ() -> Mapping[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([root, *(each for each in paths if each)]))}


def _wait_running(names: list[str], limit_s: float, on_wait: Callable[[str], None] | None) -> None:
    from ray import serve

    began = time.monotonic()
    while True:
        applications = serve.status().applications
        waiting = [name for name in names if name not in applications or applications[name].status != "RUNNING"]
        if not waiting:
            return
        name, waited_s = waiting[0], time.monotonic() - began
        status = str(applications[name].status.value) if name in applications else "NOT_STARTED"
        if status == "DEPLOY_FAILED" or waited_s > limit_s:
            message = applications[name].message if name in applications else ""
            raise EndpointNotReadyError(name, status, message, waited_s)
        if on_wait is not None:
            on_wait(name)
        time.sleep(POLL_S)


def _remove_unwanted(
    storage: str, alias: str, wanted: Mapping[str, ReleasedModel]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from ray import serve

    prefix = application_prefix(storage, alias)
    unwanted = [
        name
        for name, application in serve.status().applications.items()
        if name.startswith(prefix) and name not in wanted and application.status not in GONE
    ]
    if not unwanted:
        return (), ()
    # After this the router sends nothing to them any more; what is still open there is waited for.
    open_answers = follow_now(storage, alias)
    busy = {application_name(storage, alias, version) for version, number in open_answers.items() if number}
    removed = tuple(name for name in unwanted if name not in busy)
    for name in removed:
        logger.info("removing %s", name)
        serve.delete(name, _blocking=False)
    return removed, tuple(name for name in unwanted if name in busy)


def _endpoint_record(store: Store) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(store.get(ENDPOINT_KEY))
    except NotFound:
        return None
    return record


def _usable_port(host: str, recorded: int | None) -> int:
    """Gives the recorded port if it is free, so that the URL outlives the head; else any free one."""
    for port in (recorded, 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no free port on {host}")


@contextmanager
def _alone(storage: str) -> Iterator[None]:
    """One convergence at a time on this machine: two that both miss an application would start it twice."""
    path = Path(tempfile.gettempdir()) / f"everloop-{os.getuid()}-{storage_hash(storage)}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
