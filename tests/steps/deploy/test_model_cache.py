from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from steps.deploy.model_cache import MAX_MODELS, cached_model
from workflows.log import Blobs, CorruptBlob, Store, TreeRef, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "storage"))


def put(store: Store, folder: Path, text: str) -> TreeRef:
    folder.mkdir(parents=True)
    (folder / "weights").write_text(text)
    return Blobs(store).put_tree(folder)


def test_a_model_is_fetched_once_and_whole(store: Store, tmp_path: Path) -> None:
    tree = put(store, tmp_path / "m", "abc")
    found = cached_model(store, tree, root=tmp_path / "cache")
    assert (found / "weights").read_text() == "abc"
    (tmp_path / "storage" / "blobs").rename(tmp_path / "gone")
    assert cached_model(store, tree, root=tmp_path / "cache") == found


def test_replicas_that_start_together_share_a_folder(store: Store, tmp_path: Path) -> None:
    tree = put(store, tmp_path / "m", "abc")
    with ThreadPoolExecutor(8) as replicas:
        found = set(replicas.map(lambda _: cached_model(store, tree, root=tmp_path / "cache"), range(16)))
    assert len(found) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [tree.sha256]


def test_old_models_are_removed(store: Store, tmp_path: Path) -> None:
    trees = [put(store, tmp_path / f"m{n}", str(n)) for n in range(MAX_MODELS + 3)]
    for tree in trees:
        cached_model(store, tree, root=tmp_path / "cache")
    kept = {path.name for path in (tmp_path / "cache").iterdir()}
    assert len(kept) == MAX_MODELS
    assert trees[-1].sha256 in kept


def test_a_model_that_was_tampered_with_is_not_used(store: Store, tmp_path: Path) -> None:
    tree = put(store, tmp_path / "m", "abc")
    blob = Blobs(store).tree(tree)["weights"]
    (path,) = (tmp_path / "storage").rglob(f"*{blob.sha256[4:]}*")
    path.chmod(0o644)
    path.write_text("abd")
    with pytest.raises(CorruptBlob):
        cached_model(store, tree, root=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
