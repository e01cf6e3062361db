"""The engine of a storage; in a bucket with a broker, each step has storage credentials of its own.

Two variables set the broker up: `EVERLOOP_BROKER_ACCESS_KEY` and `EVERLOOP_BROKER_SECRET_KEY`, of a user of the bucket
who may ask for temporary credentials. They stay in the runner. Without them, and on a folder, steps use what their
processes have.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from workflows.engine import Engine
from workflows.engine.head import BROKER_ACCESS_KEY, BROKER_SECRET_KEY, state_folder
from workflows.log import Store, StoreDenied, open_store
from workflows.log.served_credentials import ray_secret
from workflows.pipeline import connect
from workflows.promotion import RELEASING, team_gate

if TYPE_CHECKING:
    from workflows.access import AuditLog, CredentialDesk, KeyPair

SERVING = frozenset({"deploy", "canary"})
"""Steps that start what outlives the run. They and the endpoint use the credentials that the Ray head has."""


def open_engine(storage: str) -> Engine:
    """The engine over a storage, connected to Ray when a step is to run. In a team it asks before a run releases."""
    keys = _broker_keys()
    grants = Grants(storage, *keys) if keys and storage.startswith("s3://") else None
    gate = team_gate(storage, os.environ)

    def environment_of(run_id: str, step: str, function: str) -> Mapping[str, str]:
        if gate is not None and function.rpartition(":")[2] == RELEASING:
            gate.check(run_id)
        return grants(run_id, step, function) if grants is not None else {}

    asked = environment_of if gate is not None or grants is not None else None
    return Engine(storage, connect=lambda: connect(storage), environment_of=asked)


class Grants:
    """Environments for the attempts at each step: where to fetch credentials for the prefixes of that step alone.

    Args:
        storage: URI of the bucket.
        access_key: Of the broker.
        secret_key: Of the broker.
        team: Whose runs these are.
    """

    def __init__(self, storage: str, access_key: str, secret_key: str, *, team: str = "local") -> None:
        self._storage, self._team = storage, team
        self._access_key, self._secret_key = access_key, secret_key
        self._given: dict[tuple[str, str], Mapping[str, str]] = {}

    def __call__(self, run_id: str, step: str, function: str) -> Mapping[str, str]:
        """The environment for a step.

        Raises:
            StoreDenied: The policies do not allow it, or the storage gives none.
        """
        name = function.rpartition(":")[2]
        if name in SERVING:
            return {}
        if (run_id, step) not in self._given:
            self._given[run_id, step] = self._issue(run_id, step, name)
        return self._given[run_id, step]

    def _issue(self, run_id: str, step: str, name: str) -> Mapping[str, str]:
        from workflows.access import EVERY_STEP, STEP_NEEDS, AccessError, Authorizer, CredentialBroker, step_principal

        principal = step_principal(run_id, name, team=self._team)
        try:
            with audit_log(self._storage, self._store, "runner") as audit:
                broker = CredentialBroker(self._storage, Authorizer(audit), keys=self._keys)
                credentials = broker.issue(principal, STEP_NEEDS.get(name, EVERY_STEP), path=step)
        except AccessError as error:
            raise StoreDenied(self._storage, f"runs/{run_id}/steps/{step}", str(error)) from error
        return self._desk.hand_out(credentials)

    @cached_property
    def _keys(self) -> KeyPair:
        from workflows.access import KeyPair

        return KeyPair(self._access_key, self._secret_key)

    @cached_property
    def _store(self) -> Store:
        return open_store(self._storage)

    @cached_property
    def _desk(self) -> CredentialDesk:
        """Lives as long as the process; asked for after Ray is connected."""
        from workflows.access import CredentialDesk

        return CredentialDesk(_host(), ray_secret(os.environ))


@contextmanager
def audit_log(storage: str, store: Store, role: str) -> Iterator[AuditLog]:
    """The audit log of a role of this machine, opened for one answer: a checkpoint is signed at its end, and a process
    that lives for hours holds nothing.
    """
    from workflows.access import AuditLog, Redactor, audit_key, environment_secrets

    key = audit_key(state_folder(storage) / "audit.key", os.environ)
    redactor = Redactor(environment_secrets(os.environ))
    with AuditLog(store, f"{role}@{socket.gethostname()}", key, redactor=redactor) as audit:
        yield audit


def _broker_keys() -> tuple[str, str] | None:
    access_key, secret_key = os.environ.get(BROKER_ACCESS_KEY, ""), os.environ.get(BROKER_SECRET_KEY, "")
    return (access_key, secret_key) if access_key and secret_key else None


def _host() -> str:
    """Loopback, unless workers are on other machines."""
    import ray

    if not os.environ.get("RAY_ADDRESS", "") or not ray.is_initialized():
        return "127.0.0.1"
    return str(ray.util.get_node_ip_address())
