"""Stores and ledgers for the tests of the log."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.workflows.log.counting import Account, Ledger
from tests.workflows.log.faulty_s3 import FaultyS3
from workflows.log import Blobs, Log, Store, open_store


@pytest.fixture
def store(storage: str) -> Store:
    return open_store(storage)


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs(store)


@pytest.fixture
def ledger(store: Store) -> Log[Account]:
    return Log(store, "ledgers/one", Ledger())


@pytest.fixture
def faulty_s3(minio: str) -> Iterator[FaultyS3]:
    """A proxy in front of MinIO whose answers can be lost."""
    with FaultyS3(minio).serving() as proxy:
        yield proxy


@pytest.fixture
def faulty_storage(faulty_s3: FaultyS3) -> str:
    """A storage behind the proxy, with short time-outs."""
    return f"s3://tests/{secrets.token_hex(6)}?endpoint_override={faulty_s3.endpoint}&timeout_s=1"
