from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from steps.deploy.vllm_files import FetchedModel
from workflows.log import Blobs, open_store

HOOK = "on_before_download_model_files_distributed"


@pytest.fixture
def on_a_node(save_model_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Runs the hook as Ray does on a node without the model, and gives the folder that vLLM would load."""

    def run(*, damaged: bool = False) -> Path:
        store = open_store(str(tmp_path / "storage"))
        model = Blobs(store).put_tree(save_model_folder(tmp_path / "model", seed=1, damaged=damaged))
        root = tmp_path / "node"
        FetchedModel(None, storage=store.uri, model=model, root=root).run_callback_sync(HOOK)
        return root / model.sha256

    return run


def test_a_node_that_has_never_seen_the_model_gets_it_before_vllm_looks_for_it(on_a_node: Callable[..., Path]) -> None:
    assert {"config.json", "model.safetensors"} <= {path.name for path in on_a_node().iterdir()}


def test_a_model_that_differs_from_its_manifest_is_not_given_to_vllm(on_a_node: Callable[..., Path]) -> None:
    with pytest.raises(Exception, match=r"config\.json"):
        on_a_node(damaged=True)
