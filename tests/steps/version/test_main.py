"""The command line `python -m steps.version`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from steps.common.alone import AloneContext
from steps.common.results import ValidationResult
from steps.version import VersionConfig, run
from steps.version.__main__ import main

Operation = Callable[..., AloneContext]
Validation = Callable[..., ValidationResult]

pytestmark = pytest.mark.parametrize("storage", ["file"], indirect=True)


def test_a_storage_without_versions_says_so(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--storage", storage]) == 0
    assert capsys.readouterr().out == "no versions\n"
    assert main(["show", "latest", "--storage", storage]) == 2
    assert "no version yet" in capsys.readouterr().err


def test_wrong_use_is_named(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--storage", "ftp://nowhere"]) == 2
    assert "ftp" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["frobnicate", "--storage", storage])
    assert caught.value.code == 2


@pytest.mark.ray
def test_versions_can_be_listed_shown_compared_named_and_cleared(
    ray_head: str,
    storage: str,
    operation: Operation,
    make_validation: Validation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ctx = operation("a")
    config = VersionConfig(name="docs", num_buckets=2)
    run(config, make_validation(ctx.blobs, {"a": "1", "b": "1"}), ctx)
    run(config, make_validation(ctx.blobs, {"b": "2", "c": "1"}, ["a"]), operation("b"))

    def ask(*arguments: str) -> str:
        assert main([*arguments, "--storage", storage, "--name", "docs"]) == 0
        return capsys.readouterr().out

    assert ask("tag", "1", "gold") == "docs v1 is gold\n"
    listed = json.loads(ask("list", "--json"))
    assert [(row["version"], row["num_added"], row["tags"]) for row in listed] == [(1, 2, ["gold"]), (2, 1, [])]
    assert "+1 ~1 -1" in ask("list")
    shown = json.loads(ask("show", "gold"))
    assert shown["version"] == 1
    assert shown["lineage"]["run_id"] == ctx.run_id
    assert shown["settings"]["num_buckets"] == 2
    assert ask("diff", "gold", "latest").splitlines()[:3] == [
        "+ https://example.org/c",
        "~ https://example.org/b",
        "- https://example.org/a",
    ]
    assert ask("gc", "--dry-run").startswith("would delete 0 blobs")
