"""The step on both storages: versions, sharing, re-runs, rivals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.common.alone import AloneContext
from steps.common.dataset import read_table
from steps.common.results import DatasetVersion, ValidationResult
from steps.version import ContendedDatasetError, EmptyDatasetError, FixedSettingError, VersionConfig, open_dataset, run
from workflows.log import FailpointHit

pytestmark = pytest.mark.ray

Operation = Callable[..., AloneContext]
Validation = Callable[..., ValidationResult]

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = VersionConfig(heldout_fraction=0.3, num_buckets=4)
DOCUMENTS = {f"page-{number}": f"text {number}" for number in range(20)}


def texts(ctx: AloneContext, version: DatasetVersion) -> dict[str, str]:
    table = read_table(ctx.blobs, version, split=None)
    return dict(zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True))


def num_versions(ctx: AloneContext, name: str = "corpus") -> int:
    return open_dataset(ctx.store, name).refresh().num_versions


@pytest.fixture(autouse=True)
def _ray(storage: str, ray_head: str) -> None:
    """All these tests run Ray Data, whose workers must be able to reach the storage."""
    import ray

    def has_credentials() -> bool:
        return "AWS_ACCESS_KEY_ID" in os.environ

    if storage.startswith("s3:") and not ray.get(ray.remote(num_cpus=0)(has_credentials).remote()):
        pytest.skip("the workers of this Ray have no credentials for MinIO: it was started before MinIO was")


def test_versions_add_change_remove_and_share_what_stays(operation: Operation, make_validation: Validation) -> None:
    ctx = operation("one")
    first = run(CONFIG, make_validation(ctx.blobs, DOCUMENTS), ctx)
    assert (first.version, first.num_added, first.num_train + first.num_heldout) == (1, 20, 20)
    assert 0 < first.num_heldout < 20
    assert texts(ctx, first) == DOCUMENTS

    ctx = operation("two")
    second = run(CONFIG, make_validation(ctx.blobs, {"page-3": "changed"}, ["page-4", "unknown"]), ctx)
    assert (second.version, second.num_added, second.num_changed, second.num_removed) == (2, 0, 1, 1)
    expected = {**DOCUMENTS, "page-3": "changed"}
    del expected["page-4"]
    assert texts(ctx, second) == expected
    assert len(set(first.files) & set(second.files)) >= 2
    assert texts(ctx, first) == DOCUMENTS

    for split in ("train", "heldout"):
        before = set(read_table(ctx.blobs, first, split, ["title"])["title"].to_pylist())
        after = set(read_table(ctx.blobs, second, split, ["title"])["title"].to_pylist())
        assert before - after <= {"page-4"}
        assert after <= before


def test_the_same_operation_twice_is_the_same_version(operation: Operation, make_validation: Validation) -> None:
    validation = make_validation(operation("a").blobs, DOCUMENTS)
    first = run(CONFIG, validation, operation("a"))
    run(CONFIG, make_validation(operation("b").blobs, {"other": "x"}), operation("b"))
    assert run(CONFIG, validation, operation("a")) == first
    assert num_versions(operation("a")) == 2


def test_equal_content_is_the_parents_version(operation: Operation, make_validation: Validation) -> None:
    ctx = operation("a")
    first = run(CONFIG, make_validation(ctx.blobs, DOCUMENTS), ctx)
    again = make_validation(ctx.blobs, dict(reversed(DOCUMENTS.items())), ["unknown"], fetched_at=1.8e9)
    assert run(CONFIG, again, operation("b")) == first
    assert run(CONFIG, make_validation(ctx.blobs, {}), operation("c")) == first
    assert run(CONFIG, make_validation(ctx.blobs, {}, ["unknown"]), operation("d")) == first
    assert num_versions(ctx) == 1


@pytest.mark.parametrize("storage", ["file"], indirect=True)
def test_many_blocks_and_workers_give_the_same_digest(operation: Operation, make_validation: Validation) -> None:
    import dataclasses

    ctx = operation("a")
    whole = make_validation(ctx.blobs, DOCUMENTS)
    halves = [
        make_validation(ctx.blobs, {name: text for name, text in DOCUMENTS.items() if hash_of(name) == side})
        for side in (0, 1)
    ]
    split = dataclasses.replace(whole, documents=tuple(ref for half in halves for ref in half.documents))
    one = run(CONFIG, whole, operation("x"))
    config = CONFIG.model_copy(update={"name": "other", "rows_per_task": 10, "num_workers": 2})
    other = run(config, split, operation("y"))
    assert one.digest == other.digest
    assert one.files == other.files


def hash_of(name: str) -> int:
    return sum(name.encode()) % 2


def test_nothing_at_all_is_an_error(operation: Operation, make_validation: Validation) -> None:
    ctx = operation("a")
    with pytest.raises(EmptyDatasetError, match="'corpus' would be empty"):
        run(CONFIG, make_validation(ctx.blobs, {}, ["page-1"]), ctx)
    run(CONFIG, make_validation(ctx.blobs, {"a": "1"}), operation("b"))
    with pytest.raises(EmptyDatasetError, match="after 1 were dropped"):
        run(CONFIG, make_validation(ctx.blobs, {}, ["a"]), operation("c"))
    assert num_versions(ctx) == 1


@pytest.mark.parametrize(("key", "value"), [("heldout_fraction", 0.2), ("num_buckets", 8)])
def test_what_the_first_record_fixed_cannot_change(
    operation: Operation, make_validation: Validation, key: str, value: Any
) -> None:
    ctx = operation("a")
    run(CONFIG, make_validation(ctx.blobs, DOCUMENTS), ctx)
    changed = CONFIG.model_copy(update={key: value})
    with pytest.raises(FixedSettingError, match=f"version.{key}={value}"):
        run(changed, make_validation(ctx.blobs, {"new": "x"}), operation("b"))


@pytest.mark.parametrize(
    "point", ["version.commit.before-record", "version.commit.after-record", "log.append.after-create@2"]
)
def test_a_step_that_failed_at_any_point_is_done_once(
    operation: Operation, make_validation: Validation, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    validation = make_validation(operation("a").blobs, DOCUMENTS)
    name, _, at = point.partition("@")
    with monkeypatch.context() as patch:
        patch.setenv("EVERLOOP_FAILPOINT", f"{name}=raise" if not at else f"{name}@{at}=raise")
        if at:
            _forget_passes()
        with pytest.raises(FailpointHit):
            run(CONFIG, validation, operation("a"))
    version = run(CONFIG, validation, operation("a"))
    assert (version.version, num_versions(operation("a"))) == (1, 1)
    assert texts(operation("a"), version) == DOCUMENTS


def _forget_passes() -> None:
    from workflows.log import failpoints

    failpoints._hits.clear()


class RivalContext(AloneContext):
    """A context in whose way others commit: `fence` stands between the merge and the record."""

    rivals: list[Callable[[], object]]

    def fence(self) -> None:
        if self.rivals:
            self.rivals.pop(0)()


def test_a_version_committed_meanwhile_is_merged_with(operation: Operation, make_validation: Validation) -> None:
    base = operation("base")
    run(CONFIG, make_validation(base.blobs, {"a": "1", "b": "1", "c": "1"}), base)
    ctx = operation("slow", RivalContext)
    assert isinstance(ctx, RivalContext)
    rival = make_validation(base.blobs, {"a": "rival", "d": "rival"}, ["b"])
    ctx.rivals = [lambda: run(CONFIG, rival, operation("fast"))]
    version = run(CONFIG, make_validation(base.blobs, {"a": "slow", "e": "slow"}), ctx)
    assert version.version == 3
    assert texts(ctx, version) == {"a": "slow", "c": "1", "d": "rival", "e": "slow"}
    assert (version.num_added, version.num_changed, version.num_removed) == (1, 1, 0)


def test_a_rival_with_the_same_token_makes_the_one_version(operation: Operation, make_validation: Validation) -> None:
    validation = make_validation(operation("base").blobs, DOCUMENTS)
    ctx = operation("same", RivalContext)
    assert isinstance(ctx, RivalContext)
    ctx.rivals = [lambda: run(CONFIG, validation, operation("same"))]
    assert run(CONFIG, validation, ctx).version == 1
    assert num_versions(ctx) == 1


def test_a_dataset_that_never_holds_still_is_given_up(operation: Operation, make_validation: Validation) -> None:
    ctx = operation("slow", RivalContext)
    assert isinstance(ctx, RivalContext)
    rivals = [make_validation(ctx.blobs, {f"rival-{number}": "x"}) for number in range(2)]
    ctx.rivals = [
        lambda number=number, rival=rival: run(CONFIG, rival, operation(f"rival-{number}"))  # type: ignore[misc]
        for number, rival in enumerate(rivals)
    ]
    config = CONFIG.model_copy(update={"max_attempts": 2})
    with pytest.raises(ContendedDatasetError, match="each of 2 merges"):
        run(config, make_validation(ctx.blobs, {"a": "1"}), ctx)
    assert num_versions(ctx) == 2


SCRIPT = """
import json, sys
import ray
from steps.common.alone import AloneContext
from steps.version import VersionConfig, run
from workflows.log import decode
storage, validation, address = sys.argv[1:]
ray.init(address=address, namespace="tests", log_to_driver=False, configure_logging=False)
with AloneContext(storage, step="version", inputs="killed") as ctx:
    run(VersionConfig(heldout_fraction=0.3, num_buckets=4), decode(json.loads(validation), ctx.blobs), ctx)
"""


@pytest.mark.parametrize("storage", ["file"], indirect=True)
@pytest.mark.parametrize(
    "point",
    ["log.append.after-create@2", pytest.param("version.commit.before-record", marks=pytest.mark.chaos)],
)
def test_a_step_that_was_killed_is_done_once(
    ray_head: str, storage: str, operation: Operation, make_validation: Validation, point: str
) -> None:
    import json

    from workflows.log import encode

    ctx = operation("killed")
    validation = make_validation(ctx.blobs, DOCUMENTS)
    arguments = [storage, json.dumps(encode(validation, ctx.blobs)), ray_head]
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "EVERLOOP_FAILPOINT": f"{point}=kill", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert num_versions(ctx) == (1 if "after-create" in point else 0)
    version = run(CONFIG, validation, ctx)
    assert (version.version, num_versions(ctx)) == (1, 1)
    assert texts(ctx, version) == DOCUMENTS
