from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.common.alone import AloneContext
from steps.common.language_model import ModelConfig, SpecialIds, build_model, load_tokenizer, prepare, save_model
from steps.common.releases import ReleasedModel
from steps.common.results import DatasetVersion, ModelVersion
from steps.evaluate import EvaluateConfig, run
from steps.evaluate.comparison import perplexity
from steps.evaluate.errors import UnfitChampionError
from workflows.log import BlobRef, Blobs, TreeRef, open_store

CONFIG = EvaluateConfig(
    documents_per_batch=5, prompts=("the list",), num_document_prompts=1, sample_tokens=8, max_degenerate=1.0
)


class DyingContext(AloneContext):
    """Dies when it is to record the third checkpoint."""

    def checkpoint(self, name: str, data: Any) -> None:
        if name == "scores-2":
            raise ConnectionError(name)
        super().checkpoint(name, data)


def store_model(
    storage: str, dataset: DatasetVersion, model: ModelConfig, folder: Path, *, seed: int, vocab_size: int
) -> TreeRef:
    """A random model with a tokenizer of its own, saved as training saves one."""
    store = open_store(storage)
    blobs = Blobs(store)
    config = model.model_copy(update={"vocab_size": vocab_size})
    corpus = prepare(store, blobs, dataset, config)
    tokenizer = blobs.fetch_tree(corpus.tokenizer, folder / "tokenizer")
    special: SpecialIds = load_tokenizer(tokenizer)[1]
    files = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
    save_model(build_model(config, corpus.vocab_size, special, seed), files, folder / "model")
    return blobs.put_tree(folder / "model")


def version(model: TreeRef) -> ModelVersion:
    return ModelVersion(
        name="everloop",
        version="2",
        model=model,
        dataset="words@v1",
        dataset_digest="d",
        params={},
        num_parameters=1,
        num_tokens=1,
        num_steps=1,
        train_loss=1.0,
        heldout_loss=1.0,
        unigram_loss=99.0,
        loss_curve=BlobRef("0" * 64, 0),
        mlflow_run_id="m",
        seconds=1.0,
    )


def released(model: TreeRef) -> ReleasedModel:
    return ReleasedModel(version="1", model=model, params={}, dataset="words@v1", run_id="run-1")


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_killed_comparison_goes_on_after_the_last_batch(
    ray_head: str,
    learning_storage: str,
    text_dataset: Callable[..., DatasetVersion],
    small_model: ModelConfig,
    tmp_path: Path,
) -> None:
    dataset = text_dataset(num_heldout=12)
    one = store_model(learning_storage, dataset, small_model, tmp_path / "one", seed=1, vocab_size=320)
    other = store_model(learning_storage, dataset, small_model, tmp_path / "other", seed=2, vocab_size=300)
    with DyingContext(learning_storage, step="evaluate") as ctx, pytest.raises(ConnectionError):
        run(CONFIG, dataset, version(one), released(other), ctx)
    with AloneContext(learning_storage, step="evaluate") as ctx:
        assert [each.name for each in ctx.previous] == ["scores-0", "scores-1"]
        evaluation = run(CONFIG, dataset, version(one), released(other), ctx)
    with AloneContext(learning_storage, step="evaluate") as ctx:
        assert [each.name for each in ctx.previous] == ["scores-0", "scores-1", "scores-2", "answers"]
        # Everything is recorded; Ray is not asked again.
        assert run(CONFIG, dataset, version(one), released(other), ctx) == evaluation
        scores = json.loads(ctx.blobs.get(evaluation.scores))
    assert len({row["doc_id"] for row in scores}) == evaluation.num_documents == 12
    differences = [(row["challenger"] - row["champion"]) / row["num_bytes"] for row in scores]
    assert evaluation.loss_difference is not None
    assert evaluation.loss_difference.estimate == pytest.approx(sum(differences) / 12)
    # Two random models: neither knows anything; a token costs about the logarithm of the vocabulary.
    assert 200 < evaluation.perplexity < 450
    assert len(evaluation.samples) == 2

    damaged = tmp_path / "one" / "model"
    (damaged / "config.json").write_text("{}")
    broken = Blobs(open_store(learning_storage)).put_tree(damaged)
    with AloneContext(learning_storage, step="evaluate", inputs="damaged challenger") as ctx:
        rejected = run(CONFIG, dataset, version(broken), None, ctx)
    assert rejected.verdict == "reject"
    assert "config.json: digest differs" in rejected.reasons[0]
    with (
        AloneContext(learning_storage, step="evaluate", inputs="damaged champion") as ctx,
        pytest.raises(UnfitChampionError, match="champion 1 cannot be loaded"),
    ):
        run(CONFIG, dataset, version(other), released(broken), ctx)


def test_perplexity_of_nothing_is_infinite() -> None:
    assert perplexity(0.0, 0) == float("inf")
    assert perplexity(1e9, 1) == float("inf")
    assert perplexity(0.0, 5) == 1.0


def test_errors_travel() -> None:
    error = UnfitChampionError("1", "gone")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.version, copy.damage, str(copy)) == ("1", "gone", str(error))
