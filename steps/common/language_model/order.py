"""Which rows a training step sees: a pure function of seed and step, for any number of workers.

Nothing has to be skipped or replayed on resume (accelerate#2016, axolotl#2229): the cursor in a checkpoint is the
number of rows consumed, and the row at a cursor is computed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class RowOrder:
    """Rows in the order in which training sees them: a new permutation each epoch, without end.

    Args:
        num_rows: Rows of the corpus.
        seed: Of the permutations.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        if num_rows < 1:
            raise ValueError(f"num_rows={num_rows} must be at least 1")
        self._num_rows = num_rows
        self._seed = seed
        self._permutations: dict[int, Rows] = {}

    def take(self, cursor: int, count: int) -> Rows:
        """The rows at positions `cursor` to `cursor + count - 1`, shape (count,)."""
        places = np.arange(cursor, cursor + count)
        epochs, offsets = np.divmod(places, self._num_rows)
        return np.array([self._permutation(int(e))[o] for e, o in zip(epochs, offsets, strict=True)], np.int64)

    def epoch(self, cursor: int) -> int:
        """The epoch that a cursor is in, counted from 0."""
        return cursor // self._num_rows

    def _permutation(self, epoch: int) -> Rows:
        if epoch not in self._permutations:
            # Only the epochs that a batch spans are kept: two, unless the corpus is smaller than a batch.
            self._permutations = {e: p for e, p in self._permutations.items() if e >= epoch - 1}
            self._permutations[epoch] = np.random.default_rng([self._seed, epoch]).permutation(self._num_rows)
        return self._permutations[epoch]


def share(rows: Rows, rank: int, world_size: int) -> Rows:
    """One worker's part of a global batch: every `world_size`-th row, from `rank` on."""
    return rows[rank::world_size]
