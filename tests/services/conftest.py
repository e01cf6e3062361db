"""Sites whose services end with the tests of the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.services.sites import ServicesSite, minio_binary, need_watchers


@pytest.fixture(scope="module")
def make_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServicesSite]]:
    """Makes sites whose services are ended with the tests of the module. What is not installed skips, by name."""
    folder = tmp_path_factory.mktemp("site")
    binary = minio_binary(folder)
    need_watchers()
    made: list[ServicesSite] = []

    def make(rules: Sequence[Path] = ()) -> ServicesSite:
        own = folder / str(len(made))
        own.mkdir()
        made.append(ServicesSite(own, binary, rules))
        return made[-1]

    yield make
    for site in made:
        site.run("down")
