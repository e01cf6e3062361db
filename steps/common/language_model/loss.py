"""Loss of a model on packed rows, in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from steps.common.language_model.packing import NO_DOCUMENT, PackedRows, as_tensors

if TYPE_CHECKING:
    import torch


def token_losses(model: Any, rows: PackedRows) -> torch.Tensor:
    """Negative log-likelihood of each token given those before it in its window, shape (rows, row_length).

    Tokens that are not predicted (the first of a window, padding) have loss 0.
    """
    import torch

    device = next(model.parameters()).device
    tokens, positions, is_target = (tensor.to(device) for tensor in as_tensors(rows))
    # No attention mask: with one, Transformers would not look at the positions and windows would see each other.
    logits = model(input_ids=tokens, position_ids=positions, attention_mask=None, use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
    ).view(len(rows), -1)
    return torch.nn.functional.pad(losses, (1, 0)) * is_target


def total_loss(model: Any, rows: PackedRows, rows_per_batch: int) -> tuple[float, int]:
    """Sum of the token losses and number of tokens predicted, without gradients."""
    import torch

    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), rows_per_batch):
            total += float(token_losses(model, rows.select(slice(start, start + rows_per_batch))).double().sum())
    return total, rows.num_targets


def document_losses(model: Any, rows: PackedRows, num_documents: int, rows_per_batch: int) -> npt.NDArray[np.float64]:
    """Loss of each whole document, shape (num_documents,): nats that its text costs given its beginning token."""
    import torch

    totals = np.zeros(num_documents)
    with torch.inference_mode():
        for start in range(0, len(rows), rows_per_batch):
            batch = rows.select(slice(start, start + rows_per_batch))
            losses = token_losses(model, batch).double().cpu().numpy()
            known = batch.documents != NO_DOCUMENT
            np.add.at(totals, batch.documents[known], losses[known])
    return totals


def unigram_loss(train: PackedRows, heldout: PackedRows, vocab_size: int) -> float:
    """Loss of the unigram model of the training rows on the held-out rows, nats per token, add-one smoothed.

    What a model that looks at no context can reach: any learning must beat it.
    """
    counts = np.bincount(train.tokens[train.is_target], minlength=vocab_size) + 1.0
    log_likelihood = np.log(counts / counts.sum())
    return float(-log_likelihood[heldout.tokens[heldout.is_target]].mean())
