"""What the tests of access control share: an auditor that remembers, a key, a store in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from workflows.access import Authorizer, SigningKey, signing_key
from workflows.log import Store, open_store


class RememberingAuditor:
    """Keeps entries in memory, and whether they were to be durable."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self.durable: list[bool] = []

    def record(self, entries: Sequence[Mapping[str, Any]], *, durable: bool) -> None:
        self.entries.extend(entries)
        self.durable.extend([durable] * len(entries))


@pytest.fixture
def auditor() -> RememberingAuditor:
    return RememberingAuditor()


@pytest.fixture
def authorizer(auditor: RememberingAuditor) -> Authorizer:
    return Authorizer(auditor)


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/storage")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return signing_key(tmp_path_factory.mktemp("key") / "audit.key")
