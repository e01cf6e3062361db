"""The log of a dataset, without Ray."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from steps.common.dataset import content_digest
from steps.version.errors import FixedSettingError, InvalidTagError, UnknownVersionError
from steps.version.manifest import BucketFile, DatasetFold, DatasetState, Manifest, Settings, check_tag

FILES = (
    BucketFile(bucket=0, sha256="a" * 64, num_bytes=10, num_rows=3, num_heldout=1),
    BucketFile(bucket=3, sha256="b" * 64, num_bytes=20, num_rows=4, num_heldout=0),
)
MANIFEST = Manifest(
    version=1, parent=0, operation="op", schema="s" * 64, digest=content_digest([file.ref for file in FILES]),
    files=FILES, num_added=7, num_changed=0, num_removed=0, lineage={"run_id": "r"}, created_at=5.0,
)  # fmt: skip
STATE = DatasetState(
    Settings(heldout_fraction=0.1, num_buckets=4, schema="s" * 64),
    (MANIFEST, replace(MANIFEST, version=2, parent=1, operation="op2")),
    {"gold": 1},
)


def test_a_state_survives_its_snapshot() -> None:
    fold = DatasetFold()
    assert fold.load(json.loads(json.dumps(fold.dump(STATE)))) == STATE


def test_the_result_adds_up_the_files() -> None:
    result = MANIFEST.result("corpus")
    assert (result.num_train, result.num_heldout, result.num_bytes) == (6, 1, 30)
    assert str(result) == "corpus@v1"


@pytest.mark.parametrize(("wanted", "version"), [("1", 1), ("v2", 2), ("latest", 2), ("gold", 1)])
def test_versions_are_found_by_number_and_name(wanted: str, version: int) -> None:
    assert STATE.find("corpus", wanted).version == version


@pytest.mark.parametrize("wanted", ["0", "3", "v9", "silver", ""])
def test_unknown_versions_are_refused(wanted: str) -> None:
    with pytest.raises(UnknownVersionError, match="versions 1 to 2"):
        STATE.find("corpus", wanted)


def test_an_empty_dataset_has_no_latest_version() -> None:
    with pytest.raises(UnknownVersionError, match="no version yet"):
        DatasetState().find("corpus", "latest")


@pytest.mark.parametrize("tag", ["3", "v3", "latest", "", "a b", "../x", "UPPER"])
def test_tags_cannot_be_taken_for_versions_or_paths(tag: str) -> None:
    with pytest.raises(InvalidTagError):
        check_tag(tag)


def test_an_operation_is_found() -> None:
    assert STATE.made_by("op") is MANIFEST
    assert STATE.made_by("other") is None


def test_errors_pickle() -> None:
    import pickle

    error = FixedSettingError("corpus", "num_buckets", 16, 8)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.key) == (FixedSettingError, str(error), "num_buckets")
