"""The records that pass between the steps, in the order in which they come to be.

References, digests, counts and a named verdict; never rows, never weights. They stand together, away from the steps
that make them, because steps do not import each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from workflows.log import BlobRef, TreeRef


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlResult:
    """What a crawl brought.

    Attributes:
        source: Name of the source; its frontier is the log `frontier/<source>`.
        documents: Parquet blobs of new or changed documents, columns as in `RAW_DOCUMENTS`.
        removed: URLs that were known and are gone (404, 410).
        num_fetched: Pages asked for in this crawl.
        num_changed: Documents in `documents`.
        num_unchanged: Pages that the server or a digest said were unchanged.
        num_bytes: Bytes of bodies received.
        rejected: Pages not taken, counted by reason (`robots`, `private_address`, `too_large`, `bad_type`, `http_404`).
        seconds: Wall time.
        frontier_length: Records of the frontier that this result takes into account; what `confirm` confirms.
    """

    source: str
    documents: tuple[BlobRef, ...]
    removed: tuple[str, ...]
    num_fetched: int
    num_changed: int
    num_unchanged: int
    num_bytes: int
    rejected: Mapping[str, int]
    seconds: float
    frontier_length: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """What cleaning left.

    Attributes:
        documents: Parquet blobs of accepted documents, columns as in `CLEAN_DOCUMENTS`.
        rejects: Parquet blobs of rejected rows: `doc_id`, `url`, `rule`, `value`, `text`.
        removed: URLs to drop from the dataset: gone, or changed into something rejected.
        num_in: Rows looked at.
        num_accepted: Rows in `documents`.
        rejected: Rows rejected, counted by rule.
        masked: Personal data masked, counted by kind (`email`, `ip`, ...).
    """

    documents: tuple[BlobRef, ...]
    rejects: tuple[BlobRef, ...]
    removed: tuple[str, ...]
    num_in: int
    num_accepted: int
    rejected: Mapping[str, int]
    masked: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetVersion:
    """An immutable version of a dataset: a record of the log `datasets/<name>`.

    Attributes:
        name: Name of the dataset.
        version: Counted from 1.
        digest: SHA-256 over schema and files: equal digests, equal content.
        files: Parquet blobs, columns as in `CLEAN_DOCUMENTS` and `split` (`train` or `heldout`).
        num_train: Rows of the training split.
        num_heldout: Rows of the held-out split.
        num_bytes: Bytes of `files`.
        num_added: Rows new against the parent version.
        num_changed: Rows changed against the parent version.
        num_removed: Rows dropped against the parent version.
    """

    name: str
    version: int
    digest: str
    files: tuple[BlobRef, ...]
    num_train: int
    num_heldout: int
    num_bytes: int
    num_added: int
    num_changed: int
    num_removed: int

    def __str__(self) -> str:
        return f"{self.name}@v{self.version}"

    def headline(self) -> str:
        """One line for people."""
        rows = self.num_train + self.num_heldout
        changes = f"+{self.num_added:,} ~{self.num_changed:,} -{self.num_removed:,}"
        return f"dataset {self} of {rows:,} documents ({changes})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One finished trial of a sweep.

    Attributes:
        name: `trial-<n>`.
        params: The values that were tried.
        loss: Loss on the validation rows, nats per token; lower is better. None if the trial failed.
        num_steps: Optimizer steps taken before the scheduler stopped it.
        status: How it ended.
        seconds: Wall time.
        origin: Where the values came from.
    """

    name: str
    params: Mapping[str, float]
    loss: float | None
    num_steps: int
    status: Literal["completed", "pruned", "failed"]
    seconds: float
    origin: Literal["search", "champion", "default"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningResult:
    """What a sweep found: the best trial and all of them."""

    best: Trial
    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A trained model.

    Attributes:
        name: Name of the registered model.
        version: Version in the MLflow registry, as text: `1`, `2`, ...
        model: Folder with `config.json`, safetensors, tokenizer files and `manifest.json` (digest of each file).
        dataset: The dataset version it was trained on, as `name@vN`.
        dataset_digest: Digest of that version.
        params: Hyperparameters used.
        num_parameters: Number of weights.
        num_tokens: Tokens seen in training.
        num_steps: Optimizer steps.
        train_loss: Last smoothed training loss, nats per token.
        heldout_loss: Loss on the held-out rows, nats per token.
        unigram_loss: Loss of the unigram model of the same tokens on the same rows: what any learning must beat.
        loss_curve: JSON blob: list of `{step, tokens, loss, lr}`.
        mlflow_run_id: The MLflow run.
        seconds: Wall time of this training, earlier attempts included.
    """

    name: str
    version: str
    model: TreeRef
    dataset: str
    dataset_digest: str
    params: Mapping[str, float]
    num_parameters: int
    num_tokens: int
    num_steps: int
    train_loss: float
    heldout_loss: float
    unigram_loss: float
    loss_curve: BlobRef
    mlflow_run_id: str
    seconds: float

    def headline(self) -> str:
        """One line for people."""
        losses = f"loss {self.heldout_loss:.4f} on held-out rows, {self.unigram_loss:.4f} for their unigram model"
        return f"model {self.name} version {self.version} trained on {self.dataset}, {losses}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The verdict on a challenger.

    Attributes:
        verdict: `promote` (better, not worse by more than the margin where that is asked, or the first), `hold` (no
            difference can be shown), `reject` (worse, or unfit to answer).
        reasons: Sentences for people, the deciding one first.
        challenger: Version of the challenger.
        champion: Version of the champion it met, or None.
        perplexity: Held-out perplexity of the challenger.
        champion_perplexity: The champion's on the same documents.
        loss_difference: Challenger minus champion, mean over documents of nats per byte, paired bootstrap.
        num_documents: Held-out documents compared.
        scores: JSON blob: per document `{doc_id, num_bytes, challenger, champion}` (nats).
        samples: Prompts and the challenger's answers that were looked at.
    """

    verdict: Literal["promote", "hold", "reject"]
    reasons: tuple[str, ...]
    challenger: str
    champion: str | None
    perplexity: float
    champion_perplexity: float | None
    loss_difference: Interval | None
    num_documents: int
    scores: BlobRef
    samples: tuple[tuple[str, str], ...]

    def headline(self) -> str:
        """One line for people."""
        rival = f"version {self.champion}" if self.champion else "nobody"
        found = ""
        if self.loss_difference is not None:
            low, high = self.loss_difference.low, self.loss_difference.high
            sure = f"{self.loss_difference.confidence:.0%} interval {low:+.4f} to {high:+.4f}"
            found = (
                f", {self.loss_difference.estimate:+.4f} nats per byte ({sure}) over {self.num_documents:,} documents"
            )
        why = f": {self.reasons[0]}" if self.reasons else ""
        return f"verdict {self.verdict} for version {self.challenger} against {rival}{found}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Where serving stands after a rollout.

    Attributes:
        alias: The public model name that clients ask for.
        state: How the rollout ended. `unchanged`: the evaluation did not ask for one.
        champion: Version that answers now, or None.
        challenger: Version that was rolled out, or None.
        rollout_id: Names the rollout in the log `releases/<alias>`.
        endpoint: Root URL of the endpoint; `/v1/...` below it.
        reasons: Sentences for people, the deciding one first.
        num_requests: Outcomes that were judged, by variant.
        replayed: Whether held-out prompts were replayed as canary traffic.
    """

    alias: str
    state: Literal["promoted", "rolled_back", "held", "unchanged"]
    champion: str | None
    challenger: str | None
    rollout_id: str | None
    endpoint: str
    reasons: tuple[str, ...]
    num_requests: Mapping[str, int] = field(default_factory=dict)
    replayed: bool = False

    def headline(self) -> str:
        """One line for people."""
        answers = (
            f"version {self.champion} answers for {self.alias}" if self.champion else f"nobody answers for {self.alias}"
        )
        why = f": {self.reasons[0]}" if self.reasons else ""
        return f"{self.state}, {answers} at {self.endpoint}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorResult:
    """The drift reference that now watches the champion.

    Attributes:
        alias: The public model name.
        champion: Version watched.
        reference: Blob with reference, projection and thresholds.
        num_reference: Prompts in the reference, one a session.
        run_length: Promised mean number of sessions between two false alarms, all detectors together.
        measured_run_length: What a replay of held-back sessions measured.
        detectors: Threshold of each detector by name.
        metrics_url: Where Prometheus scrapes.
        num_documents: Passages of documents that stand in the reference for traffic.
        warnings: What limits the promise, for people.
    """

    alias: str
    champion: str | None
    reference: BlobRef | None
    num_reference: int
    run_length: float
    measured_run_length: float
    detectors: Mapping[str, float]
    metrics_url: str
    num_documents: int = 0
    warnings: tuple[str, ...] = ()


RAW_DOCUMENTS = ("doc_id", "url", "title", "text", "content_type", "fetched_at", "text_sha256")
"""Columns of crawled documents; `doc_id` is the SHA-256 of the canonical URL; `fetched_at` is in Unix seconds."""

CLEAN_DOCUMENTS = ("doc_id", "url", "title", "text", "language", "num_chars", "fetched_at", "text_sha256")
"""Columns of accepted documents; `text_sha256` is that of the cleaned text."""
