"""A start from text: components, means over training pairs, and what is spread over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recbole_hnlm.models import start
from recbole_hnlm.models.start import PairMeans, principal_components, spread, start_from_text
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import TrainingInteractions

U, N, S = 5, 8, 6
PAIRS = [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 7)]
"""Item 7 has no text; items 1, 5 and 6 have text and no user; user 4 has no pair."""


@pytest.fixture
def interactions() -> TrainingInteractions:
    users, items = torch.tensor(PAIRS).T
    return TrainingInteractions(users, items, n_users=U, n_items=N)


@pytest.fixture
def text(interactions: TrainingInteractions) -> TextVectors:
    items = torch.nn.functional.normalize(torch.randn(N, S, generator=torch.Generator().manual_seed(0)), dim=1)
    mask = torch.tensor([False, True, True, True, True, True, True, False])
    items[~mask] = 0
    pairs: Any = None
    return TextVectors(items, mask, interactions, pairs, torch.device("cpu"))


def test_signs_of_components_are_not_the_librarys(text: TextVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, eigh = principal_components(text.items, text.item_mask, 3), torch.linalg.eigh

    def negated(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, axes = eigh(matrix)
        return values, -axes

    monkeypatch.setattr(torch.linalg, "eigh", negated)
    assert torch.equal(principal_components(text.items, text.item_mask, 3), usual)


@pytest.mark.parametrize("block", [start._BLOCK, 3])
def test_principal_components_are_those_of_numpys_svd(
    text: TextVectors, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_BLOCK", block)
    found = principal_components(text.items, text.item_mask, 3)
    known = text.items[text.item_mask].double().numpy()
    centred = known - known.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:3].T
    ours = found[text.item_mask].double().numpy()
    np.testing.assert_allclose(np.abs(ours), np.abs(expected / expected.std(ddof=1)), rtol=1e-4, atol=1e-5)
    assert torch.equal(found[~text.item_mask], torch.zeros(2, 3))
    assert principal_components(text.items, text.item_mask, S + 3).shape == (N, S)
    same = torch.ones(N, S)
    assert not principal_components(same, text.item_mask, 3).isnan().any()


def test_a_start_from_text_leaves_the_rest_at_the_models_own(
    text: TextVectors, interactions: TrainingInteractions
) -> None:
    items, users = nn.Embedding(N, 3), nn.Embedding(U, 3)
    before = items.weight.detach().clone(), users.weight.detach().clone()
    start_from_text([items], [users], text, interactions, scale=0.2)
    expected = 0.2 * principal_components(text.items, text.item_mask, 3)
    torch.testing.assert_close(items.weight[text.item_mask].detach(), expected[text.item_mask])
    torch.testing.assert_close(users.weight[1].detach(), (expected[2] + expected[3]) / 2)
    for weight, old, mask in ((items.weight, before[0], text.item_mask), (users.weight, before[1], text.user_mask)):
        assert torch.equal(weight[~mask], old[~mask])


def test_columns_that_text_does_not_reach_keep_the_models_own_start(
    text: TextVectors, interactions: TrainingInteractions
) -> None:
    """Where both sides of an inner product are zero neither ever moves, and the model would have the text's rank."""
    items, users = nn.Embedding(N, S + 2), nn.Embedding(U, S + 2)
    before = items.weight.detach().clone(), users.weight.detach().clone()
    start_from_text([items], [users], text, interactions, scale=0.2)
    assert torch.equal(items.weight[:, S:], before[0][:, S:]) and torch.equal(users.weight[:, S:], before[1][:, S:])
    assert not torch.equal(items.weight[text.item_mask, :S], before[0][text.item_mask, :S])


def test_few_distinct_texts_leave_the_further_columns_at_the_models_own_start(
    interactions: TrainingInteractions,
) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(3, S, generator=torch.Generator().manual_seed(1)), dim=1)
    told = vectors[torch.arange(N) % 3]  # three texts, which differ along two axes
    few = TextVectors(told, torch.ones(N, dtype=torch.bool), interactions, None, torch.device("cpu"))
    for hops in (0, 2):
        items, users = nn.Embedding(N, S), nn.Embedding(U, S)
        before = items.weight.detach().clone(), users.weight.detach().clone()
        start_from_text([items], [users], few, interactions, scale=0.2, hops=hops)
        assert torch.equal(items.weight[:, 2:], before[0][:, 2:]) and torch.equal(users.weight[:, 2:], before[1][:, 2:])
        assert not (items.weight[:, :2] == before[0][:, :2]).any()
        assert not (users.weight[1:4, :2] == before[1][1:4, :2]).any()


def test_means_over_training_pairs_are_those_of_a_dense_matrix(interactions: TrainingInteractions) -> None:
    rows = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)
    means = PairMeans(interactions)
    of_users = means.of_users(rows)
    np.testing.assert_allclose(
        of_users[1:4], [rows[[2, 3]].mean(0), rows[[3, 4]].mean(0), rows[[4, 7]].mean(0)], rtol=1e-5
    )
    assert not of_users[[0, 4]].any()
    of_items = means.of_items(of_users)
    np.testing.assert_allclose(of_items[3], (of_users[1] + of_users[2]) / 2, rtol=1e-5)
    assert not of_items[[0, 1, 5, 6]].any()


def test_text_spreads_to_items_of_the_same_users_and_no_further(
    text: TextVectors, interactions: TrainingInteractions
) -> None:
    """A hop is what a dense matrix of means gives, centred and of unit variance over items that have text and users."""
    means, mask = PairMeans(interactions), text.item_mask.numpy()
    rows = principal_components(text.items, text.item_mask, 3).numpy()
    assert spread(rows, mask, means, 0) is rows
    assert spread(rows, mask & (means.per_item == 0), means, 2) is rows  # none of them is in a pair: nothing to spread
    matrix = np.zeros((U, N))
    matrix[tuple(np.array(PAIRS).T)] = 1
    by_user, by_item = np.maximum(matrix.sum(1), 1), np.maximum(matrix.sum(0), 1)
    step = (matrix.T / by_item[:, None]) @ (matrix / by_user[:, None])
    reached = [2, 3, 4]
    hop, total = rows.astype(np.float64), rows.astype(np.float64)
    for _ in range(2):
        moved = (step @ hop)[reached]
        hop = np.zeros((N, 3))
        hop[reached] = (moved - moved.mean(0)) / (moved - moved.mean(0)).std()
        total = total + hop
    found = spread(rows, mask, means, 2)
    np.testing.assert_allclose(found, total / total[mask].std(), rtol=1e-4, atol=1e-5)
    assert not found[~mask].any() and found[mask].std() == pytest.approx(1, rel=1e-4)
    alone = found[[1, 5, 6]] / rows[[1, 5, 6]]
    np.testing.assert_allclose(alone, alone.flat[0], rtol=1e-4)  # no user: nothing but its own text, at the new scale


def test_a_start_that_is_spread_keeps_its_scale_and_the_rest_at_the_models_own(
    text: TextVectors, interactions: TrainingInteractions
) -> None:
    items, users = nn.Embedding(N, 3), nn.Embedding(U, 3)
    before = items.weight.detach().clone(), users.weight.detach().clone()
    start_from_text([items], [users], text, interactions, scale=0.02, hops=3)
    filled = items.weight.detach()
    assert float(filled[text.item_mask].std(unbiased=False)) == pytest.approx(0.02, rel=1e-4)
    torch.testing.assert_close(users.weight[1].detach(), (filled[2] + filled[3]) / 2)
    torch.testing.assert_close(users.weight[3].detach(), filled[4] / 2)  # item 7 has no text and counts as zeros
    assert torch.equal(filled[~text.item_mask], before[0][~text.item_mask])
    assert torch.equal(users.weight[[0, 4]], before[1][[0, 4]])
