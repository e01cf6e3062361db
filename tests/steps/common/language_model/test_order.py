from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.common.language_model import RowOrder, share

SIZES = st.integers(1, 50)


@given(SIZES, st.integers(0, 2**31), st.integers(1, 5))
def test_an_epoch_has_every_row_once(num_rows: int, seed: int, epochs: int) -> None:
    taken = RowOrder(num_rows, seed).take(0, num_rows * epochs)
    for epoch in range(epochs):
        assert sorted(taken[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


@given(SIZES, st.integers(0, 2**31), st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_a_fresh_order_goes_on_where_another_stopped(num_rows: int, seed: int, counts: list[int]) -> None:
    whole = RowOrder(num_rows, seed).take(0, sum(counts))
    cursor, parts = 0, []
    for count in counts:
        parts.append(RowOrder(num_rows, seed).take(cursor, count))
        cursor += count
    assert np.concatenate(parts).tolist() == whole.tolist()


@given(SIZES, st.integers(1, 8), st.integers(0, 100))
def test_workers_of_any_number_share_the_same_batch(num_rows: int, world_size: int, cursor: int) -> None:
    batch = RowOrder(num_rows, 3).take(cursor, 16)
    shares = [share(batch, rank, world_size) for rank in range(world_size)]
    assert sorted(np.concatenate(shares)) == sorted(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_epochs_and_seeds_differ() -> None:
    order = RowOrder(100, 0)
    assert order.take(0, 100).tolist() != order.take(100, 100).tolist()
    assert order.take(0, 100).tolist() != RowOrder(100, 1).take(0, 100).tolist()
    assert (order.epoch(99), order.epoch(100)) == (0, 1)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="num_rows=0"):
        RowOrder(0, 0)
