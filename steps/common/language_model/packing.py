"""Documents in rows of one length, without a token wasted on padding where that can be helped.

A document becomes windows of at most a row, each overlapping the one before by one token, so that every token but the
first is predicted exactly once (the rolling likelihood of lm-evaluation-harness, with a context of one). Windows are
packed best-fit; positions restart at 0 with each window, and Transformers makes attention block-diagonal from that
(`find_packed_sequence_indices` in `masking_utils.py`), as long as no 2-D mask is passed (transformers#46634).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

IntArray = npt.NDArray[np.int32]
NO_DOCUMENT = -1


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Packed documents.

    Attributes:
        tokens: Ids, shape (rows, row_length).
        positions: Position of each token in its window, same shape. Padding is a window of its own.
        documents: Index of each token's document, same shape; -1 for padding.
    """

    tokens: IntArray
    positions: IntArray
    documents: IntArray

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, rows: npt.NDArray[np.int64] | slice) -> PackedRows:
        """Some of the rows, in the order asked for."""
        return PackedRows(self.tokens[rows], self.positions[rows], self.documents[rows])

    @property
    def is_target(self) -> npt.NDArray[np.bool_]:
        """Whether a token is predicted from the one before it, shape (rows, row_length); never in column 0."""
        targets: npt.NDArray[np.bool_] = (self.positions > 0) & (self.documents != NO_DOCUMENT)
        return targets

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted."""
        return int(self.is_target.sum())


def windows(ids: Sequence[int], row_length: int) -> list[Sequence[int]]:
    """Cuts a document into windows of at most `row_length` tokens that overlap by one token."""
    starts = range(0, max(1, len(ids) - 1), row_length - 1)
    return [ids[start : start + row_length] for start in starts]


def pack(documents: Sequence[Sequence[int]], row_length: int, pad_id: int) -> PackedRows:
    """Packs documents best-fit decreasing: each window goes to the fullest row that still takes it.

    Args:
        documents: Token ids of each document.
        row_length: Tokens in a row.
        pad_id: Fills what is left.
    """
    pieces = [(index, piece) for index, ids in enumerate(documents) for piece in windows(ids, row_length)]
    order = sorted(range(len(pieces)), key=lambda n: (-len(pieces[n][1]), n))
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (free tokens, row), sorted: the first that fits is the fullest
    for number in order:
        length = len(pieces[number][1])
        found = bisect_left(spaces, (length, -1))
        if found == len(spaces):
            free, row = row_length, len(rows)
            rows.append([])
        else:
            free, row = spaces.pop(found)
        rows[row].append(number)
        left = (free - length, row)
        spaces.insert(bisect_left(spaces, left), left)
    shape = (len(rows), row_length)
    packed = PackedRows(
        np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.full(shape, NO_DOCUMENT, np.int32)
    )
    for row, numbers in enumerate(rows):
        at = 0
        for number in numbers:
            index, piece = pieces[number]
            end = at + len(piece)
            packed.tokens[row, at:end] = piece
            packed.positions[row, at:end] = np.arange(len(piece))
            packed.documents[row, at:end] = index
            at = end
        packed.positions[row, at:] = np.arange(row_length - at)
    return packed


def as_tensors(rows: PackedRows) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, positions and the target mask as tensors of shape (rows, row_length): int64, int64, bool."""
    import torch

    return (
        torch.from_numpy(rows.tokens.astype(np.int64)),
        torch.from_numpy(rows.positions.astype(np.int64)),
        torch.from_numpy(rows.is_target),
    )
