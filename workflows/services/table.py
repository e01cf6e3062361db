"""All services, in the order in which they may start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workflows.services.alertmanager import Alertmanager
from workflows.services.config import ServicesConfig
from workflows.services.errors import ServicesConfigError
from workflows.services.loop_services import Reconciler, Triggers
from workflows.services.minio import Minio
from workflows.services.mlflow import Mlflow
from workflows.services.neighbours import Airflow, N8n
from workflows.services.prometheus import Prometheus
from workflows.services.ray_head import RayHead
from workflows.services.service import Service
from workflows.services.site import Site
from workflows.services.watch import Watch

KINDS: tuple[type[Service], ...] = (
    Minio,
    Mlflow,
    RayHead,
    Triggers,
    Reconciler,
    Alertmanager,
    Prometheus,
    Airflow,
    N8n,
    Watch,
)
NAMES = tuple(kind.name for kind in KINDS)


def chosen(only: Sequence[str], without: Sequence[str]) -> frozenset[str]:
    """The names of a set: all, or some only, or all but some.

    Raises:
        ServicesConfigError: A name is none.
    """
    unknown = sorted({*only, *without} - set(NAMES))
    if unknown:
        raise ServicesConfigError(", ".join(unknown), f"no such service; there are {', '.join(NAMES)}")
    return frozenset(only or NAMES) - set(without)


def recorded_names(state: Path) -> frozenset[str]:
    """The services that were started in a state folder and not stopped since."""
    found = {kind.name for kind in KINDS if (state / "services" / kind.name / "pid").exists()}
    return frozenset(found | ({RayHead.name} if (state / "ray.json").exists() else set()))


def services(site: Site) -> list[Service]:
    """The services of a site."""
    return [kind(site) for kind in KINDS if kind.name in site.names]


def ports(config: ServicesConfig) -> dict[str, int]:
    """Port by service, the endpoint's and MinIO's console included."""
    return dict(config.ports.model_dump())
