from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steps.common.language_model import ModelConfig, SpecialIds, build_model, document_losses, pack, token_losses
from steps.common.language_model.packing import NO_DOCUMENT, windows

SPECIAL = SpecialIds(pad=0, bos=1, eos=2)
DOCUMENTS = st.lists(st.lists(st.integers(3, 99), min_size=2, max_size=80), min_size=1, max_size=30)


@given(DOCUMENTS, st.integers(2, 40))
def test_every_token_but_the_first_is_predicted_exactly_once(documents: list[list[int]], row_length: int) -> None:
    rows = pack(documents, row_length, SPECIAL.pad)
    predicted: dict[int, list[int]] = {}
    for document, token in zip(rows.documents[rows.is_target], rows.tokens[rows.is_target], strict=True):
        predicted.setdefault(int(document), []).append(int(token))
    assert {n: sorted(ids[1:]) for n, ids in enumerate(documents)} == {n: sorted(ids) for n, ids in predicted.items()}


@given(DOCUMENTS, st.integers(2, 40))
def test_a_window_lies_in_one_piece_with_positions_from_zero(documents: list[list[int]], row_length: int) -> None:
    rows = pack(documents, row_length, SPECIAL.pad)
    for row in range(len(rows)):
        starts = np.flatnonzero(rows.positions[row] == 0)
        for start, end in zip(starts, [*starts[1:], row_length], strict=True):
            assert len(set(rows.documents[row, start:end])) == 1
            assert rows.positions[row, start:end].tolist() == list(range(end - start))


@given(DOCUMENTS, st.integers(2, 40))
def test_no_two_rows_could_be_one(documents: list[list[int]], row_length: int) -> None:
    used = sorted((pack(documents, row_length, SPECIAL.pad).documents != NO_DOCUMENT).sum(axis=1))
    assert len(used) < 2 or used[0] + used[1] > row_length


def test_windows_overlap_by_one_token() -> None:
    assert windows([1, 2, 3, 4, 5], 3) == [[1, 2, 3], [3, 4, 5]]
    assert windows([1, 2], 3) == [[1, 2]]


@pytest.fixture(scope="module")
def model() -> object:
    config = ModelConfig(
        vocab_size=300, row_length=48, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, intermediate_size=64
    )
    return build_model(config, 300, SPECIAL, seed=1).eval()


def test_packed_documents_cost_what_they_cost_alone(model: object) -> None:
    generator = np.random.default_rng(0)
    documents = [generator.integers(3, 300, int(n)).tolist() for n in generator.integers(2, 48, 23)]
    rows = pack(documents, 48, SPECIAL.pad)
    assert len(rows) < len(documents)
    packed = document_losses(model, rows, len(documents), rows_per_batch=4)
    alone = [document_losses(model, pack([ids], 48, SPECIAL.pad), 1, 1)[0] for ids in documents]
    # Also against a plain call without padding, positions or packing.
    import torch

    plain = []
    for ids in documents:
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            logits = model(input_ids=tokens).logits  # type: ignore[operator]
        plain.append(float(torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum")))
    np.testing.assert_allclose(packed, alone, rtol=0, atol=1e-4)
    np.testing.assert_allclose(packed, plain, rtol=1e-5)
    per_token = np.abs(packed - np.array(plain)) / np.array([len(ids) - 1 for ids in documents])
    assert per_token.max() <= 1e-5


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_a_neighbour_in_the_row_changes_nothing(model: object, seed: int) -> None:
    import torch

    generator = np.random.default_rng(seed)
    first, one, other = (generator.integers(3, 300, 20).tolist() for _ in range(3))
    with torch.inference_mode():
        losses = [token_losses(model, pack([first, second], 48, SPECIAL.pad)) for second in (one, other)]
    torch.testing.assert_close(losses[0][:, :20], losses[1][:, :20], rtol=0, atol=1e-6)
    assert not torch.allclose(losses[0][:, 20:40], losses[1][:, 20:40])
