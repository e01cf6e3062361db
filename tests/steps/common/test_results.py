"""What results say of themselves in messages."""

from __future__ import annotations

from steps.common.results import DatasetVersion, Evaluation, Interval, Release
from workflows.log import BlobRef

BLOB = BlobRef("0" * 64, 1)


def test_a_dataset_gives_its_size_and_what_changed() -> None:
    version = DatasetVersion(
        name="pages", version=3, digest="d", files=(), num_train=900, num_heldout=100, num_bytes=1,
        num_added=40, num_changed=2, num_removed=1,
    )  # fmt: skip
    assert version.headline() == "dataset pages@v3 of 1,000 documents (+40 ~2 -1)"


def test_an_evaluation_gives_verdict_rival_interval_and_reason() -> None:
    difference = Interval(estimate=-0.0213, low=-0.034, high=-0.009, confidence=0.95)
    evaluation = Evaluation(
        verdict="promote", reasons=("better on held-out documents",), challenger="8", champion="7", perplexity=3.0,
        champion_perplexity=3.2, loss_difference=difference, num_documents=120, scores=BLOB, samples=(),
    )  # fmt: skip
    assert evaluation.headline() == (
        "verdict promote for version 8 against version 7, -0.0213 nats per byte "
        "(95% interval -0.0340 to -0.0090) over 120 documents: better on held-out documents"
    )


def test_a_release_says_who_answers_where() -> None:
    release = Release(
        alias="demo", state="rolled_back", champion="7", challenger="8", rollout_id="r", endpoint="http://127.0.0.1:8000",
        reasons=("it fails",),
    )  # fmt: skip
    assert release.headline() == "rolled_back, version 7 answers for demo at http://127.0.0.1:8000: it fails"
